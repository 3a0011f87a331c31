import dgram from 'node:dgram';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { promisify } from 'node:util';
import t from 'tap';
import { createTenantLookup } from '../../src/outbound/tenant-lookup.ts';

t.test('asks the name servers alone, without local names and the search list', async t => {
  const asked = new Set<string>();
  const server = dgram.createSocket('udp4', (question, { port, address }) => {
    asked.add(nameIn(question));
    const answer = Buffer.from(question);
    // No such name.
    answer.writeUInt16BE(0x8183, 2);
    server.send(answer, port, address);
  });
  server.bind(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const lookup = promisify(createTenantLookup({ servers: [`127.0.0.1:${port}`] }));
  const names = ['localhost', 'metadata', 'bucket.example.com'];
  for (const name of names) await t.rejects(lookup(name, { all: true }), { code: 'ENOTFOUND' });
  t.strictSame([...asked], names);
});

/** Returns the name of the first question of a DNS message. */
function nameIn(message: Buffer): string {
  const labels: string[] = [];
  for (let at = 12; (message[at] ?? 0) > 0; at += 1 + (message[at] ?? 0)) {
    labels.push(message.toString('latin1', at + 1, at + 1 + (message[at] ?? 0)));
  }
  return labels.join('.');
}
