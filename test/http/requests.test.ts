import t from 'tap';
import { exchange } from '../faults/raw-exchange.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startApp, startTestApp } from '../helpers/app.ts';
import { ask, open } from '../helpers/http-client.ts';
import { connectRaw, eventually } from '../helpers/raw-http.ts';
import { testAdminToken } from '../helpers/secrets.ts';

/**
 * Rules for requests that hold before any route, and the ids of requests: every answer has an id of
 * the service, and log lines also have the caller's id.
 */

const app = await startTestApp(t);
await app.putEnvironment('acme');
await app.ingest('acme', '2026-03-01', ingestBody([adoptionRow()]));

const askRaw = async (path: string, ...headers: string[]) => {
  const lines = [`GET ${path} HTTP/1.1`, ...headers, 'Connection: close', '', ''];
  const { answers } = await exchange(app.port, [lines.join('\r\n')]);
  return answers[0];
};

t.test('accepts one Host header that names a host', async t => {
  for (const host of [
    'a.example',
    'a_b.example:80',
    'a:65535',
    'a:00080',
    'a:',
    '127.0.0.1:3000',
    '[::1]',
    '[::1]:3000',
    '[::ffff:127.0.0.1]',
    '',
  ]) {
    t.equal((await askRaw('/health/live', `Host: ${host}`))?.status, 200, host);
  }
});

t.test('refuses a Host header that does not name a host', async t => {
  for (const host of [
    'a:65536',
    'a:99999',
    'a:100000',
    'a:8o',
    'a:-1',
    'a:80:80',
    ':80',
    'user@a',
    'user:password@a',
    'a b',
    'a,b',
    'a/b',
    'a?b',
    'a#b',
    'a\\b',
    'a%2fb',
    '::1',
    '[::1',
    '[]',
    '[:::]',
    '[1]',
    '[1.2.3.4]',
    '[::1]a',
    '[fe80::1%eth0]',
    '[v1.a]',
    'é',
    'http://a',
  ]) {
    const answer = await askRaw('/health/live', `Host: ${host}`);
    t.equal(answer?.status, 400, host);
    t.match(answer?.headers['content-type'], /^application\/problem\+json/, host);
    t.match(JSON.parse(answer?.body.toString() ?? ''), { code: 'validation_failed' }, host);
  }
});

t.test('refuses a request with several Host headers', async t => {
  for (const headers of [
    ['Host: a.example', 'Host: b.example'],
    ['Host: a.example', 'Host: a.example'],
    ['Host: a.example', 'host: b.example', 'HOST: c.example'],
    ['Host: a.example', 'Host:'],
    ['Host:', 'Host: a.example'],
  ]) {
    for (const path of ['/health/live', '/v1/environments', '/nothing']) {
      const answer = await askRaw(path, ...headers);
      t.equal(answer?.status, 400, `${path} ${headers}`);
      t.match(JSON.parse(answer?.body.toString() ?? ''), { code: 'validation_failed' });
    }
  }
});

t.test('refuses HTTP/1.1 without a Host header, and accepts HTTP/1.0 without one', async t => {
  t.equal((await askRaw('/health/live'))?.status, 400);
  const { answers } = await exchange(app.port, ['GET /health/live HTTP/1.0\r\n\r\n']);
  t.equal(answers[0]?.status, 200);
});

t.test('ignores an unknown expectation', async t => {
  t.equal((await askRaw('/health/live', 'Host: x', 'Expect: a miracle'))?.status, 200);
});

const lists = [
  '/v1/environments',
  '/v1/audit-log',
  '/v1/environments/acme/api-keys',
  '/v1/environments/acme/snapshots',
  '/v1/environments/acme/export-configs',
];

t.test('accepts a limit in decimal digits', async t => {
  for (const path of lists) {
    for (const limit of ['1', '50', '100', '007']) {
      t.equal((await app.call(`${path}?limit=${limit}`)).status, 200, `${path} ${limit}`);
    }
  }
});

t.test('refuses a limit that is not in decimal digits', async t => {
  for (const path of lists) {
    for (const limit of [
      ...['1.5', '1.0', '0x10', '1e2', '%205', '5%20', '%2B5', '', '-1', '0', '101', 'ten', 'true'],
      ...['%D9%A1', '0b1', '0o7', '1_0', '1,0', 'Infinity', 'null', '99999999999999999999', '%00'],
    ]) {
      const answer = await app.call(`${path}?limit=${limit}`);
      t.equal(answer.status, 400, `${path} ${limit}`);
      t.equal(answer.json.code, 'validation_failed');
      t.equal(answer.json.errors[0]?.path, '/query/limit', `${path} ${limit} ${answer.text}`);
    }
    t.equal((await app.call(`${path}?limit=5&limit=6`)).status, 400, `${path} twice`);
    t.equal((await app.call(`${path}?limit`)).status, 400, `${path} without a value`);
  }
});

const authorization = { authorization: `Bearer ${testAdminToken}` };
const json = { 'content-type': 'application/json' };
const linesOf = (id: string) => app.log.filter(line => line['requestId'] === id);
const ownId = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
let made = 0;
const newId = () => {
  made += 1;
  return `caller.${made}`;
};

for (const [what, method, path, headers, body, status] of [
  ['an answer', 'GET', '/v1/environments/acme', authorization, undefined, 200],
  [
    'a streamed download',
    'GET',
    '/v1/environments/acme/exports/today.csv',
    authorization,
    undefined,
    200,
  ],
  [
    'a HEAD request',
    'HEAD',
    '/v1/environments/acme/exports/today.csv',
    authorization,
    undefined,
    200,
  ],
  ['a missing token', 'GET', '/v1/environments/acme', {}, undefined, 401],
  ['an unknown route', 'GET', '/v1/nothing', {}, undefined, 404],
  ['an unknown method', 'PATCH', '/v1/environments/acme', {}, undefined, 405],
  ['a URL that cannot be decoded', 'GET', '/v1/environments/%ff', authorization, undefined, 400],
  ['a parameter that is too long', 'GET', `/v1/downloads/${'x'.repeat(2_300)}`, {}, undefined, 400],
  ['an invalid link', 'GET', '/v1/downloads/nothing', {}, undefined, 401],
  ['broken JSON', 'PUT', '/v1/environments/new', { ...authorization, ...json }, '{', 400],
  ['an invalid field', 'PUT', '/v1/environments/new', { ...authorization, ...json }, '{}', 400],
  [
    'another media type',
    'PUT',
    '/v1/environments/new',
    { ...authorization, 'content-type': 'text/html' },
    'x',
    415,
  ],
  [
    'invalid rows',
    'PUT',
    '/v1/environments/acme/snapshots/2026-03-01',
    { ...authorization, 'content-type': 'text/csv' },
    'a\nb\n',
    422,
  ],
] as const) {
  t.test(`sends and logs request ids for ${what}`, async t => {
    const id = newId();
    const answer = await ask(app.origin + path, {
      method,
      headers: { ...headers, 'x-request-id': id },
      body,
    });
    t.equal(answer.status, status);
    const given = String(answer.headers['x-request-id']);
    t.match(given, ownId, 'header');
    if (status >= 400) t.equal(answer.json.requestId, given, 'problem');
    // Requests of links are logged only if the service fails.
    if (!path.startsWith('/v1/downloads/')) {
      await eventually(() => linesOf(given).length >= 1, 'the log');
      for (const line of linesOf(given)) t.equal(line['callerRequestId'], id);
    }
  });
}

t.test('gives a request with a malformed host an id before any route', async t => {
  const connection = await connectRaw(app.port);
  connection.socket.write(
    'GET /v1/environments HTTP/1.1\r\nHost: a b\r\nX-Request-Id: before\r\nConnection: close\r\n\r\n',
  );
  await connection.closed;
  const text = connection.received().toString();
  const [, id = ''] = /"requestId":"([0-9a-f-]{36})"/.exec(text) ?? [];
  t.match(text, new RegExp(`x-request-id: ${id}\r\n`, 'i'));
  await eventually(() => linesOf(id).some(line => line['callerRequestId'] === 'before'));
});

t.test('gives an answer to malformed HTTP an id', async t => {
  const connection = await connectRaw(app.port);
  connection.socket.write('garbage\r\n\r\n');
  await connection.closed;
  const text = connection.received().toString();
  const [, id = ''] = /"requestId":"([0-9a-f-]{36})"/.exec(text) ?? [];
  t.match(text, new RegExp(`x-request-id: ${id}\r\n`));
  t.equal(linesOf(id).length, 1);
});

t.test('logs the id of a failed download before and after the first byte', async t => {
  const { pool } = app.database;
  const before = newId();
  await pool.query('alter table snapshots rename to hidden');
  const url = `${app.origin}/v1/environments/acme/exports/today.csv`;
  const failed = await ask(url, { headers: { ...authorization, 'x-request-id': before } });
  await pool.query('alter table hidden rename to snapshots');
  t.equal(failed.status, 503);
  t.match(failed.json.requestId, ownId);
  t.ok(linesOf(failed.json.requestId).some(line => line['msg'] === 'request failed'));

  const after = newId();
  await pool.query(`update snapshots set row_count = 99`);
  const response = await open(url, { headers: { ...authorization, 'x-request-id': after } });
  const given = String(response.headers['x-request-id']);
  response.on('error', () => {}).resume();
  await eventually(() => linesOf(given).some(line => line['msg'] === 'download failed'), 'the log');
});

t.test('gives two requests with the same caller id different ids', async t => {
  const headers = { ...authorization, 'x-request-id': 'same' };
  const answers = await Promise.all([1, 2].map(() => ask(`${app.origin}/nothing`, { headers })));
  const ids = answers.map(answer => String(answer.headers['x-request-id']));
  t.equal(new Set(ids).size, 2);
  for (const id of ids) t.match(id, ownId);
});

t.test('logs the caller of each request', async t => {
  const key = await app.makeKey('acme', ['exports:read']);
  const completed = async (token: string | null) => {
    const { headers } = await app.call('/v1/environments/acme', { token });
    const lines = () =>
      linesOf(String(headers['x-request-id'])).filter(line => line['msg'] === 'request completed');
    await eventually(() => lines().length === 1, 'the log');
    return lines()[0]?.['caller'];
  };
  t.strictSame(await completed(testAdminToken), { kind: 'operator' });
  t.strictSame(await completed(key.token), { kind: 'api-key', id: key.id });
  t.strictSame(await completed(null), undefined);
});

t.test('closes a connection without a request at shutdown, and answers a request', async t => {
  const other = await startApp(t, { databaseUrl: app.database.url });
  const unused = await connectRaw(other.port);
  const started = await connectRaw(other.port);
  started.socket.write('GET /health/live HTTP/1.1\r\n');
  // The service has accepted both connections before this one.
  await other.call('/health/live');
  const closed = other.app.close();
  await unused.closed;
  t.equal(unused.received().length, 0, 'not after a time limit, which would answer 408');
  started.socket.write('Host: x\r\n\r\n');
  await started.closed;
  t.match(started.received().toString(), /^HTTP\/1\.1 200 /);
  await closed;
});
