import { once } from 'node:events';
import http from 'node:http';
import https from 'node:https';
import { type AddressInfo, isIP, type LookupFunction } from 'node:net';
import t from 'tap';
import { ConfigError } from '../../src/config/config.ts';
import { parseDestination } from '../../src/destinations/destination.ts';
import {
  isAllowed,
  isPublicAddress,
  parseEndpointAllowlist,
} from '../../src/outbound/endpoint-allowlist.ts';
import { createGuardedAgents, EndpointNotAllowedError } from '../../src/outbound/endpoint-guard.ts';
import { forbiddenHosts } from './forbidden-hosts.ts';

const nothingListed = parseEndpointAllowlist([]);

/** Returns a resolver whose answers the test controls, as the owner of a domain does. */
function resolver(answer: (hostname: string) => string[] | string): LookupFunction {
  return (hostname, _options, callback) => {
    const found = answer(hostname);
    if (typeof found === 'string') callback(Object.assign(new Error(found), { code: found }), []);
    else
      callback(
        null,
        found.map(address => ({ address, family: isIP(address) })),
      );
  };
}

async function request(url: URL, agent: http.Agent): Promise<number> {
  const client = url.protocol === 'https:' ? https : http;
  const sent = client.request({
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port,
    agent,
  });
  sent.end();
  const [response] = (await once(sent, 'response')) as [http.IncomingMessage];
  response.resume();
  await once(response, 'end');
  return response.statusCode ?? 0;
}

/** Starts a server that must not be reached and counts its requests. */
async function canary(
  host = '127.0.0.1',
): Promise<{ port: number; hits: () => number; close: () => void }> {
  let hits = 0;
  const server = http.createServer((_, response) => {
    hits += 1;
    response.end();
  });
  server.listen(0, host);
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    hits: () => hits,
    close: () => server.close(),
  };
}

t.test('rejects every spelling of a forbidden address', async t => {
  const all = forbiddenHosts();
  t.ok(new Set(all).size >= 400, `${new Set(all).size} spellings`);
  const { httpsAgent } = createGuardedAgents(nothingListed, {
    resolve: resolver(name => {
      t.fail(`${name} is not an address`);
      return [];
    }),
  });
  t.teardown(() => httpsAgent.destroy());
  for (const host of all) {
    const destination = parseDestination({
      provider: 'custom',
      endpoint: `https://${host}:9000`,
      bucket: 'acme',
      region: 'auto',
    });
    if (!destination.ok) {
      t.fail(`${host} must be parseable, so that the guard rejects it`);
      continue;
    }
    await t.rejects(
      request(new URL(destination.value.endpoint ?? ''), httpsAgent),
      EndpointNotAllowedError,
      host,
    );
  }
});

t.test('rejects forbidden addresses that reach the agent unparsed', async t => {
  const { httpAgent } = createGuardedAgents(parseEndpointAllowlist([]));
  t.teardown(() => httpAgent.destroy());
  for (const host of [
    '0x7f.1',
    '2130706433',
    '0177.0.0.1',
    'localhost',
    'localhost.',
    'LOCALHOST',
  ]) {
    const sent = http.request({ host, port: 1, agent: httpAgent });
    sent.end();
    await t.rejects(once(sent, 'response'), EndpointNotAllowedError, host);
  }
});

t.test('accepts public addresses over https only', async t => {
  for (const address of [
    '8.8.8.8',
    '1.1.1.1',
    '52.95.110.1',
    '172.32.0.1',
    '100.128.0.1',
    '2606:4700::1',
    '2a05:d018::1',
  ]) {
    t.equal(isPublicAddress(address), true, address);
    const target = { host: address, port: 443, scheme: 'https' } as const;
    t.equal(isAllowed(nothingListed, target, address), true);
    t.equal(
      isAllowed(nothingListed, { ...target, scheme: 'http' }, address),
      false,
      'rejected over plain http',
    );
  }
});

t.test(
  'gives the same error for a name with a forbidden address and one that does not resolve',
  async t => {
    const server = await canary();
    t.teardown(server.close);
    const answers: Record<string, string[] | string> = {
      'inside.example': ['127.0.0.1'],
      'mixed.example': ['8.8.8.8', '127.0.0.1'],
      'mapped.example': ['::ffff:127.0.0.1'],
      'metadata.example': ['169.254.169.254'],
      'empty.example': [],
      'absent.example': 'ENOTFOUND',
      'refused.example': 'EREFUSED',
    };
    const { httpsAgent } = createGuardedAgents(nothingListed, {
      resolve: resolver(name => answers[name] ?? []),
    });
    t.teardown(() => httpsAgent.destroy());
    const seen = new Set<string>();
    for (const name of Object.keys(answers)) {
      const error = await request(new URL(`https://${name}:${server.port}`), httpsAgent).catch(
        (error: unknown) => error,
      );
      t.type(error, EndpointNotAllowedError, name);
      seen.add(JSON.stringify([String(error), Object.entries(error as object)]));
    }
    t.equal(seen.size, 1, 'all errors are equal');
    t.equal(server.hits(), 0);
  },
);

t.test('passes on errors of the name server', async t => {
  const { httpsAgent } = createGuardedAgents(nothingListed, {
    resolve: resolver(() => 'EAI_AGAIN'),
  });
  t.teardown(() => httpsAgent.destroy());
  await t.rejects(request(new URL('https://acme.example'), httpsAgent), { code: 'EAI_AGAIN' });
});

t.test('rejects a name that moves to a forbidden address between two connections', async t => {
  const outside = await canary('127.0.0.1');
  t.teardown(outside.close);
  let address = '127.0.0.1';
  let lookups = 0;
  const { httpAgent } = createGuardedAgents(parseEndpointAllowlist(['127.0.0.1/32']), {
    resolve: resolver(() => {
      lookups += 1;
      return [address];
    }),
  });
  t.teardown(() => httpAgent.destroy());
  const url = new URL(`http://rebind.example:${outside.port}`);
  t.equal(await request(url, httpAgent), 200, 'allowed while the name has an allowed address');
  t.equal(outside.hits(), 1);
  address = '127.0.0.2';
  await t.rejects(request(url, httpAgent), EndpointNotAllowedError);
  t.equal(lookups, 2, 'the name was resolved again');
  t.equal(outside.hits(), 1);
});

t.test('allows what the allow-list contains and nothing else', async t => {
  const server = await canary();
  t.teardown(server.close);
  const { port } = server;
  const resolve = resolver(name => (name === 'minio.internal' ? ['127.0.0.1'] : 'ENOTFOUND'));
  const table: [string, string, boolean][] = [
    ['127.0.0.1', `http://127.0.0.1:${port}`, true],
    ['2130706433', `http://127.0.0.1:${port}`, true],
    [`127.0.0.1:${port}`, `http://127.0.0.1:${port}`, true],
    ['127.0.0.1:1', `http://127.0.0.1:${port}`, false],
    ['127.0.0.0/8', `http://127.0.0.1:${port}`, true],
    ['127.0.0.0/8', `http://minio.internal:${port}`, true],
    ['10.0.0.0/8', `http://127.0.0.1:${port}`, false],
    ['::/0', `http://127.0.0.1:${port}`, false],
    ['minio.internal', `http://minio.internal:${port}`, true],
    ['MinIO.Internal.', `http://minio.internal:${port}`, true],
    [`minio.internal:${port}`, `http://minio.internal:${port}`, true],
    ['minio.internal:1', `http://minio.internal:${port}`, false],
    ['minio.internal', `http://127.0.0.1:${port}`, false],
    ['127.0.0.1', `http://minio.internal:${port}`, false],
    ['internal', `http://minio.internal:${port}`, false],
  ];
  for (const [entry, url, open] of table) {
    const { httpAgent } = createGuardedAgents(parseEndpointAllowlist([entry]), { resolve });
    const hits = server.hits();
    const asked = request(new URL(url), httpAgent);
    if (open) t.equal(await asked, 200, `${entry} allows ${url}`);
    else await t.rejects(asked, EndpointNotAllowedError, `${entry} does not allow ${url}`);
    t.equal(server.hits(), open ? hits + 1 : hits);
    httpAgent.destroy();
  }
});

t.test('parses valid entries of the allow-list and rejects invalid ones', async t => {
  const good = [
    'minio.internal',
    'minio.internal:9000',
    'localhost',
    '10.0.0.5',
    '10.0.0.0/8',
    '::1',
    '[::1]',
    '[::1]:9000',
    'fd00::/8',
    'bücher.example',
  ];
  for (const entry of good) t.doesNotThrow(() => parseEndpointAllowlist([entry]), entry);
  t.strictSame(
    [...parseEndpointAllowlist(good).hosts],
    [
      'minio.internal',
      'minio.internal:9000',
      'localhost',
      '10.0.0.5',
      '::1',
      '[::1]:9000',
      'xn--bcher-kva.example',
    ],
  );
  const bad = [
    '',
    'http://minio.internal',
    'minio.internal/path',
    'minio.internal:0',
    'minio.internal:65536',
    'minio.internal:x',
    'a@minio.internal',
    '10.0.0.0/33',
    '10.0.0/x',
    '[::1',
    '*.internal',
    '256.256.256.256',
  ];
  for (const entry of bad) {
    t.throws(() => parseEndpointAllowlist([entry]), ConfigError, entry);
    t.throws(() => parseEndpointAllowlist([entry]), { message: /^S3_ENDPOINT_ALLOWLIST / });
  }
});
