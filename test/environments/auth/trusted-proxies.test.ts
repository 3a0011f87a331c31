import t from 'tap';
import { startApp, type TestApp } from '../../helpers/app.ts';
import { createTestDatabase } from '../../helpers/postgres.ts';
import { registerSecret } from '../../helpers/secrets.ts';

const unknownKey = `whx_${'0'.repeat(16)}_${'0'.repeat(64)}`;
const path = '/v1/environments/acme';
const database = await createTestDatabase(t);

type Env = Readonly<Record<string, string>>;

const start = (env: Env) =>
  startApp(t, { databaseUrl: database.url, env: { RATE_LIMIT_FAILED_LOGINS: '2', ...env } });

/** Fails a login with this X-Forwarded-For header. */
async function fail(app: TestApp, forwardedFor: string): Promise<number> {
  const headers = { 'x-forwarded-for': forwardedFor };
  return (await app.call(path, { token: unknownKey, headers })).status;
}

/** Fails logins one after another, because their order decides the result. */
async function failAll(app: TestApp, forwardedFor: readonly string[]): Promise<number[]> {
  const statuses: number[] = [];
  for (const each of forwardedFor) statuses.push(await fail(app, each));
  return statuses;
}

const untrusting = await start({});
const trusting = await start({ TRUST_PROXY: '1' });
await untrusting.putEnvironment('acme', 'pro');

t.test('ignores X-Forwarded-For of an untrusted proxy', async t => {
  for (const app of [untrusting, await start({ TRUST_PROXY: '10.0.0.0/8,192.0.2.1' })]) {
    const madeUp = [1, 2, 3, 4].map(count => `198.51.100.${count}`);
    t.strictSame(await failAll(app, madeUp), [401, 401, 429, 429]);
  }
});

t.test('counts failures by the address that a trusted proxy saw, not by a forged one', async t => {
  for (const app of [trusting, await start({ TRUST_PROXY: '10.0.0.0/8, 127.0.0.0/8' })]) {
    const own = ['198.51.100.1', '198.51.100.1', '198.51.100.1', '198.51.100.2'];
    t.strictSame(await failAll(app, own), [401, 401, 429, 401]);
    // A forged address is to the left of the address that the proxy saw.
    const spoofed = [1, 2, 3].map(count => `203.0.113.${count}, 198.51.100.9`);
    t.strictSame(await failAll(app, spoofed), [401, 401, 429]);
    t.equal(await fail(app, '203.0.113.1'), 401, 'a forged address does not block its owner');
  }
  const two = await start({ TRUST_PROXY: '2' });
  const spoofed = [1, 2, 3].map(count => `203.0.113.${count}, 198.51.100.9, 10.0.0.1`);
  t.strictSame(await failAll(two, spoofed), [401, 401, 429], 'two proxies in a row');
});

t.test('answers 401 or 429 for any X-Forwarded-For', async t => {
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

t.test('uses the forwarded host in links only from a trusted proxy', async t => {
  const make = async (app: TestApp, headers: Env) => {
    const json = { aggregation: 'today' };
    const answer = await app.call(`${path}/download-links`, { method: 'POST', json, headers });
    if (answer.status !== 201) return answer.status;
    registerSecret(answer.json.url.split('/').at(-1));
    return new URL(answer.json.url).origin;
  };
  const forwarded = { 'x-forwarded-host': 'exports.example.com', 'x-forwarded-proto': 'https' };
  // The address of the other tests is blocked there.
  const fresh = await start({});
  t.equal(await make(fresh, forwarded), fresh.origin);
  const from = { 'x-forwarded-for': '192.0.2.7' };
  t.equal(await make(trusting, { ...from, ...forwarded }), 'https://exports.example.com');
  for (const host of ['evil.example/path?', 'user@evil.example', 'a b', '"']) {
    t.equal(await make(trusting, { ...from, 'x-forwarded-host': host }), 400, host);
  }
  t.equal(await make(trusting, { ...from, 'x-forwarded-proto': 'javascript' }), trusting.origin);
});
