import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { Writable } from 'node:stream';
import t from 'tap';
import { freePort } from '../../dev/free-port.ts';
import { createLogDestination } from '../../src/observability/log-destination.ts';
import { ask } from '../helpers/http-client.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { testAdminToken, testEncryptionKeys } from '../helpers/secrets.ts';
import { isReady } from '../helpers/service-process.ts';
import { compileCache, startFlags } from '../helpers/start-flags.ts';
import { waitFor } from '../helpers/wait-for.ts';

t.setTimeout(600_000);

const main = path.join(import.meta.dirname, '../../src/main.ts');

t.test('drops lines beyond the limit while the reader stalls, and logs their number', async t => {
  const lines: string[] = [];
  let proceed = () => {};
  const stream = new Writable({
    decodeStrings: false,
    write(line, _encoding, callback) {
      lines.push(line);
      proceed = callback;
    },
  });
  const destination = createLogDestination(stream, 100_000);
  for (let index = 0; index < 20; index += 1) destination.write(`${'x'.repeat(9_999)}\n`);
  t.ok(stream.writableLength <= 100_000);
  await destination.flush(1);
  while (stream.writableLength > 0) {
    proceed();
    await new Promise(resolve => setImmediate(resolve));
  }
  t.match(JSON.parse(lines.at(-1) ?? ''), { level: 40, droppedLines: 10 });
});

t.test('ends on a signal in every state of stdout and stderr', async t => {
  const database = await createTestDatabase(t);
  const cases: readonly [title: string, NodeJS.Signals, close: (child: ChildProcess) => void][] = [
    [
      'closed stdout and stderr',
      'SIGINT',
      child => {
        child.stdout?.destroy();
        child.stderr?.destroy();
      },
    ],
    // Nothing reads the sockets, and the lines exceed their capacity.
    [
      'stalled stdout and stderr',
      'SIGTERM',
      child => {
        child.stdout?.pause();
        child.stderr?.pause();
      },
    ],
  ];
  await Promise.all(
    cases.map(async ([title, signal, close]) => {
      const port = await freePort();
      const child = spawn(process.execPath, [...startFlags(), main], {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: {
          DATABASE_URL: database.url,
          ADMIN_TOKEN: testAdminToken,
          ENCRYPTION_KEYS: testEncryptionKeys.first,
          PORT: String(port),
          PROCESS_ROLE: 'api',
          SHUTDOWN_DRAIN_SECONDS: '0',
          ...compileCache(),
        },
      });
      t.teardown(() => child.kill('SIGKILL'));
      const exited = once(child, 'exit');
      await waitFor('the service', () => isReady(`http://127.0.0.1:${port}`), { limitMs: 90_000 });
      close(child);
      const url = `http://127.0.0.1:${port}/v1/environments/acme?${'x=1&'.repeat(600)}`;
      const headers = { authorization: `Bearer ${testAdminToken}` };
      for (let round = 0; round < 3; round += 1) {
        await Promise.all(Array.from({ length: 40 }, () => ask(url, { headers })));
      }
      const started = performance.now();
      child.kill(signal);
      const how = `${signal} with ${title}`;
      t.strictSame(await exited, [0, null], how);
      t.ok(performance.now() - started < 20_000, `${how}: the end within the time to shut down`);
    }),
  );
});
