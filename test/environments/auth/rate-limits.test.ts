import net from 'node:net';
import t from 'tap';
import { createWindowStore } from '../../../src/environments/auth/window-store.ts';
import { adoptionRow, ingestBody } from '../../helpers/adoption-rows.ts';
import { startApp, type TestApp, testNow } from '../../helpers/app.ts';
import { type Answer, ask } from '../../helpers/http-client.ts';
import { makeIssuerKey, startIssuer } from '../../helpers/issuer.ts';
import { createTestDatabase } from '../../helpers/postgres.ts';
import { registerSecret, testAdminToken } from '../../helpers/secrets.ts';

const unknownKey = `whx_${'0'.repeat(16)}_${'0'.repeat(64)}`;
const path = '/v1/environments/acme';
const database = await createTestDatabase(t);
const issuer = await startIssuer(t);
const issuerKey = await makeIssuerKey('ec');
await issuer.publish(issuerKey);

type Env = Readonly<Record<string, string>>;

/** Starts the service on the database of this file. */
function start(t: Parameters<typeof startApp>[0], env: Env): Promise<TestApp> {
  return startApp(t, { databaseUrl: database.url, env });
}

/** The app of tests that each use their own keys and their own address behind the proxy. */
const app = await start(t, {
  ...issuer.env,
  RATE_LIMIT_FAILED_LOGINS: '5',
  RATE_LIMIT_PER_CALLER: '5',
  TRUST_PROXY: '1',
});
await app.putEnvironment('acme', 'pro');
await app.ingest('acme', '2026-03-01', ingestBody([adoptionRow()]));
t.afterEach(() => app.setNow(testNow));

const from = (address: string) => ({ 'x-forwarded-for': address });

function later(seconds: number): void {
  app.setNow(new Date(Date.parse(testNow) + seconds * 1_000).toISOString());
}

type Assertions = Pick<typeof t, 'equal'>;

function isLimited(t: Assertions, answer: Answer, seconds: number): void {
  t.equal(answer.status, 429);
  t.equal(answer.json.code, 'rate_limited');
  t.equal(answer.headers['retry-after'], String(seconds));
  t.equal(answer.headers['content-type'], 'application/problem+json; charset=utf-8');
}

/** Counts how often the API pool has given out a connection. */
function countQueries(): () => number {
  let count = 0;
  app.dependencies.pools.api.on('acquire', () => {
    count += 1;
  });
  return () => count;
}

t.test(
  'limits the requests of each key and user per minute, but not those of the operator',
  async t => {
    const [one, other] = [
      await app.makeKey('acme', ['exports:read']),
      await app.makeKey('acme', ['exports:read']),
    ];
    const read = (token: string) => app.call(path, { token });
    for (let count = 0; count < 5; count += 1) t.equal((await read(one.token)).status, 200);
    later(12.5);
    isLimited(t, await read(one.token), 48);
    t.equal((await read(other.token)).status, 200, 'another key');

    const user = (claims = {}) =>
      issuer.token(issuerKey, { ...claims, jti: Math.random().toString() });
    for (let count = 0; count < 5; count += 1) t.equal((await read(await user())).status, 200);
    isLimited(t, await read(await user()), 60);
    t.equal((await read(await user({ sub: 'user-2' }))).status, 200, 'another user');
    t.equal(
      (await read(await user({ sub: one.id }))).status,
      200,
      'a user whose name equals a key id',
    );
    for (let count = 0; count < 6; count += 1) t.equal((await app.call(path)).status, 200);

    isLimited(t, await app.call('/v1/environments/absent', { token: one.token }), 48);
    later(60);
    t.equal((await read(one.token)).status, 200, 'a minute after the first request');
  },
);

t.test('refuses an address after too many failed logins without a database query', async t => {
  const headers = from('198.51.100.2');
  const read = (token: string | null) => app.call(path, { token, headers });
  const known = await app.makeKey('acme', ['exports:read']);
  const quiet = await app.makeKey('acme', ['exports:read']);
  for (const token of [known.token, testAdminToken]) t.equal((await read(token)).status, 200);
  for (const token of [unknownKey, null, 'x', '', 'a.b.c'])
    t.equal((await read(token)).status, 401, String(token));

  const queries = countQueries();
  for (const token of [
    unknownKey,
    `${unknownKey.slice(0, -1)}1`,
    null,
    'x',
    'a.b.c',
    testAdminToken.slice(0, -1),
  ]) {
    isLimited(t, await read(token), 60);
  }
  isLimited(t, await read(quiet.token), 60);
  t.equal(queries(), 0);

  t.equal(
    (await read(known.token)).status,
    200,
    'a key that was accepted from this address before',
  );
  t.equal((await read(testAdminToken)).status, 200, 'the operator token');
  await app.call(`${path}/api-keys/${known.id}`, { method: 'DELETE' });
  isLimited(t, await read(known.token), 60);
  const before = queries();
  isLimited(t, await read(known.token), 60);
  t.equal(queries(), before, 'after its revocation the key is like any unknown key');

  later(59);
  isLimited(t, await read(unknownKey), 1);
  later(60);
  t.equal((await read(unknownKey)).status, 401);
  t.equal((await read(quiet.token)).status, 200);
});

t.test('refuses a valid token from a blocked address where it was never used', async t => {
  const key = await app.makeKey('acme', ['exports:read']);
  const read = async (address: string, token: string) =>
    (await app.call(path, { token, headers: from(address) })).status;
  for (const token of [key.token, testAdminToken]) t.equal(await read('198.51.100.3', token), 200);
  for (const address of ['198.51.100.3', '203.0.113.3']) {
    for (let count = 0; count < 5; count += 1) t.equal(await read(address, unknownKey), 401);
  }
  for (const token of [key.token, testAdminToken]) {
    t.equal(await read('203.0.113.3', token), 429);
    t.equal(await read('198.51.100.3', token), 200);
  }
  later(60);
  t.equal(await read('203.0.113.3', testAdminToken), 200);
});

t.test('counts invalid links as failures and lets valid links and users through', async t => {
  const headers = from('198.51.100.4');
  const json = { aggregation: 'today' };
  const made = await app.call(`${path}/download-links`, { method: 'POST', json });
  const url: string = made.json.url;
  registerSecret(url.split('/').at(-1) ?? '');
  for (let count = 0; count < 5; count += 1)
    t.equal((await ask(`${url}x`, { headers })).status, 401);
  const queries = countQueries();
  isLimited(t, await ask(`${url}x`, { headers }), 60);
  isLimited(t, await app.call(path, { token: unknownKey, headers }), 60);
  t.equal(queries(), 0);
  t.equal((await ask(url, { headers })).status, 200);
  const token = await issuer.token(issuerKey, { sub: 'user-of-links' });
  t.equal((await app.call(path, { token, headers })).status, 200);
  const forged = await issuer.token(await makeIssuerKey('ec'));
  isLimited(t, await app.call(path, { token: forged, headers }), 60);
});

t.test('does not limit routes without a token', async t => {
  const headers = from('198.51.100.5');
  for (let count = 0; count < 6; count += 1) await app.call(path, { token: unknownKey, headers });
  isLimited(t, await app.call(path, { token: unknownKey, headers }), 60);
  for (const open of [
    '/health/live',
    '/health/ready',
    '/metrics',
    '/openapi.yaml',
    '/docs/',
    '/docs/static/index.css',
  ]) {
    t.equal((await app.call(open, { token: unknownKey, headers })).status, 200, open);
  }
  for (let count = 0; count < 6; count += 1) {
    t.equal((await app.call('/health/live', { token: null, headers })).status, 200);
  }
});

t.test('limits nothing if the limits are 0', async t => {
  const app = await start(t, { RATE_LIMIT_FAILED_LOGINS: '0', RATE_LIMIT_PER_CALLER: '0' });
  const { token } = await app.makeKey('acme', ['exports:read']);
  for (let count = 0; count < 3; count += 1) {
    t.equal((await app.call(path, { token: unknownKey })).status, 401);
    t.equal((await app.call(path, { token })).status, 200);
  }
});

t.test('logs no error for callers that disconnect at once', async t => {
  for (let count = 0; count < 20; count += 1) {
    const socket = net.connect(app.port, '127.0.0.1');
    await new Promise<void>(resolve => {
      socket.write(
        `GET ${path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.6\r\nAuthorization: Bearer ${unknownKey}\r\n\r\n`,
        () => {
          socket.resetAndDestroy();
          resolve();
        },
      );
    });
  }
  t.equal((await app.call('/health/live')).status, 200);
  t.strictSame(
    app.log.filter(({ level }) => Number(level) >= 50),
    [],
  );
});

t.test('counts in windows, drops the oldest key and tolerates a clock that goes back', async t => {
  let nowMs = 1_000_000;
  const Store = createWindowStore(() => new Date(nowMs), 3);
  const store = new Store({}).child({} as never);
  const count = (key: string) => {
    let counted = { current: -1, ttl: -1 };
    store.incr(key, (_error, result) => (counted = result ?? counted), 60_000, 0);
    return counted;
  };
  t.strictSame(count('a'), { current: 1, ttl: 60_000 });
  nowMs += 59_999;
  t.strictSame(count('a'), { current: 2, ttl: 1 });
  nowMs += 1;
  t.strictSame(count('a'), { current: 1, ttl: 60_000 });
  nowMs -= 86_400_000;
  t.strictSame(count('a'), { current: 1, ttl: 60_000 }, 'a day earlier');
  for (const key of ['b', 'c', 'a', 'd']) count(key);
  t.equal(count('a').current, 3, 'the least recently counted key b was dropped');
  t.equal(count('b').current, 1);
});

t.test(
  'counts requests by link for the key, or for the link if the operator created it',
  async t => {
    const key = await app.makeKey('acme', ['exports:read']);
    const makeLink = async (token: string): Promise<string> => {
      const json = { aggregation: 'today' };
      const answer = await app.call(`${path}/download-links`, { method: 'POST', token, json });
      registerSecret(answer.json.url.split('/').at(-1));
      return answer.json.url;
    };
    const ofKey = [await makeLink(key.token), await makeLink(key.token)];
    for (const url of [...ofKey, ...ofKey.slice(1)]) t.equal((await ask(url)).status, 200);
    for (const url of ofKey) isLimited(t, await ask(url), 60);
    isLimited(t, await app.call(path, { token: key.token }), 60);

    const ofOperator = [await makeLink(testAdminToken), await makeLink(testAdminToken)];
    for (const url of ofOperator) {
      for (const method of ['GET', 'HEAD', 'GET', 'HEAD', 'HEAD']) {
        t.equal((await ask(url, { method })).status, 200, 'each link has its own count');
      }
      isLimited(t, await ask(url), 60);
    }
    t.equal((await app.call(path)).status, 200, 'the operator has no limit');
    later(60);
    t.equal((await ask(ofKey[0] ?? '')).status, 200);
  },
);

t.test('limits a caller behind proxies by the address that TRUST_PROXY allows', async t => {
  const startBehind = (env: Env) => start(t, { RATE_LIMIT_FAILED_LOGINS: '2', ...env });

  /** Fails a login with this X-Forwarded-For header. */
  const fail = async (app: TestApp, forwardedFor: string): Promise<number> => {
    const headers = { 'x-forwarded-for': forwardedFor };
    return (await app.call(path, { token: unknownKey, headers })).status;
  };

  /** Fails logins one after another, because their order decides the result. */
  async function failAll(app: TestApp, forwardedFor: readonly string[]): Promise<number[]> {
    const statuses: number[] = [];
    for (const each of forwardedFor) statuses.push(await fail(app, each));
    return statuses;
  }

  const untrusting = await startBehind({});
  const trusting = await startBehind({ TRUST_PROXY: '1' });
  // A token that was used before the failures is not blocked with its address.
  await untrusting.putEnvironment('acme', 'pro');

  await t.test('ignores X-Forwarded-For of an untrusted proxy', async t => {
    for (const app of [untrusting, await startBehind({ TRUST_PROXY: '10.0.0.0/8,192.0.2.1' })]) {
      const madeUp = [1, 2, 3, 4].map(count => `198.51.100.${count}`);
      t.strictSame(await failAll(app, madeUp), [401, 401, 429, 429]);
    }
  });

  await t.test(
    'counts failures by the address that a trusted proxy saw, not by a forged one',
    async t => {
      for (const app of [trusting, await startBehind({ TRUST_PROXY: '10.0.0.0/8, 127.0.0.0/8' })]) {
        const own = ['198.51.100.1', '198.51.100.1', '198.51.100.1', '198.51.100.2'];
        t.strictSame(await failAll(app, own), [401, 401, 429, 401]);
        // A forged address is to the left of the address that the proxy saw.
        const spoofed = [1, 2, 3].map(count => `203.0.113.${count}, 198.51.100.9`);
        t.strictSame(await failAll(app, spoofed), [401, 401, 429]);
        t.equal(await fail(app, '203.0.113.1'), 401, 'a forged address does not block its owner');
      }
      const two = await startBehind({ TRUST_PROXY: '2' });
      const spoofed = [1, 2, 3].map(count => `203.0.113.${count}, 198.51.100.9, 10.0.0.1`);
      t.strictSame(await failAll(two, spoofed), [401, 401, 429], 'two proxies in a row');
    },
  );

  await t.test('answers 401 or 429 for any X-Forwarded-For', async t => {
    for (const value of [
      '',
      ',',
      ',,,a',
      'unknown',
      '%',
      '::',
      'fe80::1%eth0',
      '::ffff:1.2.3.4',
      '1.2.3.4:80',
      '[::1]:80',
      '1'.repeat(400),
      'x'.repeat(5_000),
    ]) {
      const status = await fail(trusting, value);
      t.ok(status === 401 || status === 429, `${value.slice(0, 20)}: ${status}`);
    }
    const addresses = [
      '2001:db8:1:1::1',
      '2001:db8:1:1:ffff::2',
      '2001:db8:1:1::3',
      '2001:db8:1:2::1',
    ];
    t.strictSame(
      await failAll(trusting, addresses),
      [401, 401, 429, 401],
      'a /64 network counts as one address',
    );
  });

  await t.test('uses the forwarded host in links only from a trusted proxy', async t => {
    const make = async (app: TestApp, headers: Env) => {
      const json = { aggregation: 'today' };
      const answer = await app.call(`${path}/download-links`, { method: 'POST', json, headers });
      if (answer.status !== 201) return answer.status;
      registerSecret(answer.json.url.split('/').at(-1));
      return new URL(answer.json.url).origin;
    };
    const forwarded = { 'x-forwarded-host': 'exports.example.com', 'x-forwarded-proto': 'https' };
    t.equal(await make(untrusting, forwarded), untrusting.origin);
    const from = { 'x-forwarded-for': '192.0.2.7' };
    t.equal(await make(trusting, { ...from, ...forwarded }), 'https://exports.example.com');
    for (const host of ['evil.example/path?', 'user@evil.example', 'a b', '"']) {
      t.equal(await make(trusting, { ...from, 'x-forwarded-host': host }), 400, host);
    }
    t.equal(await make(trusting, { ...from, 'x-forwarded-proto': 'javascript' }), trusting.origin);
  });
});
