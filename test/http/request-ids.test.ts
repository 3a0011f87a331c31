import t from 'tap';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startTestApp } from '../helpers/app.ts';
import { ask, open } from '../helpers/http-client.ts';
import { connectRaw, eventually } from '../helpers/raw-http.ts';
import { testAdminToken } from '../helpers/secrets.ts';

/**
 * Tests that every answer has an id of the service, and that its log lines also have the caller's
 * id.
 */

const app = await startTestApp(t);
await app.putEnvironment('acme', 'enterprise');
await app.ingest('acme', '2026-03-01', ingestBody([adoptionRow()]));
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
