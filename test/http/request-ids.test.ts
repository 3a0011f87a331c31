import t from 'tap';
import { adoptionRow, loadBody } from '../helpers/adoption-rows.ts';
import { startTestApp } from '../helpers/app.ts';
import { ask, open } from '../helpers/http-client.ts';
import { connectRaw, eventually } from '../helpers/raw-http.ts';
import { testAdminToken } from '../helpers/secrets.ts';

/** A caller's id comes back with every answer, and finds the lines in the log. */

const app = await startTestApp(t);
await app.putEnvironment('acme', 'enterprise');
await app.load('acme', '2026-03-01', loadBody([adoptionRow()]));
const authorization = { authorization: `Bearer ${testAdminToken}` };
const json = { 'content-type': 'application/json' };
const linesOf = (id: string) => app.log.filter(line => line['requestId'] === id);
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
  ['its headers', 'HEAD', '/v1/environments/acme/exports/today.csv', authorization, undefined, 200],
  ['no token', 'GET', '/v1/environments/acme', {}, undefined, 401],
  ['no route', 'GET', '/v1/nothing', {}, undefined, 404],
  ['no such method', 'PATCH', '/v1/environments/acme', {}, undefined, 404],
  ['a URL that cannot be decoded', 'GET', '/v1/environments/%ff', authorization, undefined, 400],
  ['a parameter that is too long', 'GET', `/v1/downloads/${'x'.repeat(1_300)}`, {}, undefined, 400],
  ['no good link', 'GET', '/v1/downloads/nothing', {}, undefined, 401],
  ['broken JSON', 'PUT', '/v1/environments/new', { ...authorization, ...json }, '{', 400],
  ['a field at fault', 'PUT', '/v1/environments/new', { ...authorization, ...json }, '{}', 400],
  [
    'another media type',
    'PUT',
    '/v1/environments/new',
    { ...authorization, 'content-type': 'text/html' },
    'x',
    415,
  ],
  [
    'rows at fault',
    'PUT',
    '/v1/environments/acme/snapshots/2026-03-01',
    { ...authorization, 'content-type': 'text/csv' },
    'a\nb\n',
    422,
  ],
] as const) {
  t.test(what, async t => {
    const id = newId();
    const answer = await ask(app.origin + path, {
      method,
      headers: { ...headers, 'x-request-id': id },
      body,
    });
    t.equal(answer.status, status);
    t.equal(answer.headers['x-request-id'], id, 'header');
    if (status >= 400) t.equal(answer.json.requestId, id, 'problem');
    // Links stay out of the log while nothing is wrong with the service.
    if (!path.startsWith('/v1/downloads/')) {
      await eventually(() => linesOf(id).length >= 1, 'the log');
    }
  });
}

t.test('a host that is none, before any route', async t => {
  const connection = await connectRaw(app.port);
  connection.socket.write(
    'GET /v1/environments HTTP/1.1\r\nHost: a b\r\nX-Request-Id: before\r\nConnection: close\r\n\r\n',
  );
  await connection.closed;
  t.match(connection.received().toString(), /x-request-id: before\r\n[\s\S]*"requestId":"before"/i);
});

t.test('what is not HTTP gets an id of its own', async t => {
  const connection = await connectRaw(app.port);
  connection.socket.write('garbage\r\n\r\n');
  await connection.closed;
  const text = connection.received().toString();
  const [, id = ''] = /"requestId":"([0-9a-f-]{36})"/.exec(text) ?? [];
  t.match(text, new RegExp(`x-request-id: ${id}\r\n`));
  t.equal(linesOf(id).length, 1);
});

t.test('a fault of ours, before and after the first byte', async t => {
  const { pool } = app.database;
  const before = newId();
  await pool.query('alter table snapshots rename to hidden');
  const url = `${app.origin}/v1/environments/acme/exports/today.csv`;
  const failed = await ask(url, { headers: { ...authorization, 'x-request-id': before } });
  await pool.query('alter table hidden rename to snapshots');
  t.equal(failed.status, 500);
  t.equal(failed.json.requestId, before);
  t.ok(linesOf(before).some(line => line['msg'] === 'request failed'));

  const after = newId();
  await pool.query(`update snapshots set row_count = 99`);
  const response = await open(url, { headers: { ...authorization, 'x-request-id': after } });
  t.equal(response.headers['x-request-id'], after);
  response.on('error', () => {}).resume();
  await eventually(
    () => linesOf(after).some(line => line['msg'] === 'download broke off'),
    'the log',
  );
});
