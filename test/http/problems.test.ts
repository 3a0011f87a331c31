import http from 'node:http';
import { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { adoptionRow, ingestBody, ingestColumns } from '../helpers/adoption-rows.ts';
import { startTestApp } from '../helpers/app.ts';
import { type Answer, ask } from '../helpers/http-client.ts';
import { liveMemoryMib } from '../helpers/live-memory.ts';
import { connectRaw } from '../helpers/raw-http.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';

const app = await startTestApp(t);
await app.putEnvironment('acme', 'pro');

function isProblem(
  t: { ok: (is: boolean, name: string) => unknown },
  answer: Answer,
  status: number,
  code: string,
  what: string,
) {
  const problem = answer.json;
  const isRight =
    answer.status === status &&
    answer.headers['content-type'] === 'application/problem+json; charset=utf-8' &&
    problem.type === `urn:warehouse-export:problem:${code}` &&
    problem.code === code &&
    problem.status === status &&
    typeof problem.title === 'string' &&
    typeof problem.detail === 'string' &&
    problem.requestId === answer.headers['x-request-id'];
  t.ok(isRight, `${what}: ${answer.status} ${JSON.stringify(answer.text)}`);
  t.ok(
    !/\\n +at |node_modules|\.ts:|select |pg_|127\.0\.0\.1/i.test(answer.text),
    `${what}: no internal details`,
  );
}

t.test('answers 405 with Allow to methods that a known path does not have', async t => {
  const { paths } = app.app.swagger() as unknown as { paths: Record<string, object> };
  const known = {
    ...paths,
    '/openapi.yaml': { get: {} },
    '/docs/static/x.css': { get: {}, head: {} },
  };
  const every = ['DELETE', 'GET', 'HEAD', 'OPTIONS', 'PATCH', 'POST', 'PROPFIND', 'PUT', 'TRACE'];
  const key = await app.makeKey('acme', ['exports:read']);
  const tokens = [null, 'wrong', key.token, testAdminToken];
  const tried = new Set<string>();
  let count = 0;
  for (const [index, [template, operations]] of Object.entries(known).entries()) {
    const path = template.replace(/\{\w+\}/g, 'none');
    // The last part is a parameter of another path, which has more methods.
    const isShadowed = template.endsWith('/export-configs/validate');
    const allowed = Object.keys({
      ...operations,
      ...(isShadowed ? { get: {}, patch: {}, delete: {} } : {}),
    }).map(name => name.toUpperCase());
    const allow = allowed.toSorted().join(', ');
    const refused = every.filter(name => !allowed.includes(name));
    // One path gets every token with every method. Other paths get some methods, each with one
    // token, because one hook answers them all.
    const isThorough = template === '/v1/environments/{environmentId}';
    for (const method of refused.filter((_, at) => isThorough || at % 3 === index % 3)) {
      for (const token of isThorough ? tokens : tokens.slice(count % 4, (count % 4) + 1)) {
        const headers = {
          'content-type': 'text/csv',
          ...(token === null ? {} : { authorization: `Bearer ${token}` }),
        };
        const answer = await ask(`${app.origin}${path}?limit=x`, { method, headers });
        const what = `${method} ${template}`;
        if (method !== 'HEAD') isProblem(t, answer, 405, 'method_not_allowed', what);
        t.equal(answer.status, 405, what);
        t.equal(answer.headers.allow, allow, what);
        tried.add(method);
        count += 1;
      }
    }
  }
  t.equal(tried.size, every.length);
});

t.test('answers 404 to paths that no method has', async t => {
  for (const [method, path] of [
    ['GET', '/'],
    ['GET', '/v1'],
    ['GET', '/v1/nothing'],
    ['GET', '/v2/environments'],
    ['POST', '/v1/nothing'],
    ['GET', '/v1/environments/acme/exports/today'],
    ['GET', '/v1/environments/acme/exports/today.csv.br'],
    ['GET', '/v1/environments/acme/exports/today.csv/'],
    ['GET', '/v1/environments/acme/../acme'],
    ['DELETE', '/health/nothing'],
    ['OPTIONS', '/v1/nothing'],
    ['GET', '/v1/environments/acme/failure-webhook/test/more'],
    ['GET', `/${'x'.repeat(5_000)}`],
    ['GET', '/v1/Environments'],
  ] as const) {
    const answer = await ask(app.origin + path, { method });
    isProblem(
      t,
      answer,
      path.includes('..') ? answer.status : 404,
      answer.json.code,
      `${method} ${path.slice(0, 60)}`,
    );
    t.ok(answer.status === 404 || answer.status === 401, path.slice(0, 60));
  }
});

t.test('refuses URLs that cannot be decoded', async t => {
  for (const path of [
    '/v1/environments/%',
    '/v1/environments/%zz',
    '/v1/environments/%ff',
    '/%c0%af',
    '/v1/environments/a%',
  ]) {
    const answer = await ask(app.origin + path, {
      headers: { authorization: `Bearer ${testAdminToken}` },
    });
    t.ok(answer.status === 400 || answer.status === 404, `${path}: ${answer.status}`);
    isProblem(
      t,
      answer,
      answer.status,
      answer.status === 400 ? 'validation_failed' : 'not_found',
      path,
    );
  }
});

t.test('refuses malformed, unsuitable and oversized JSON bodies', async t => {
  const put = (body: string | Buffer, type = 'application/json') =>
    app.call('/v1/environments/new', { method: 'PUT', headers: { 'content-type': type }, body });
  const good = '{"name":"x","plan":"pro"}';
  for (const body of [
    '',
    '{',
    'null',
    '[]',
    '"x"',
    '1',
    '{"name":"x","plan":"pro"',
    `${good}x`,
    '\u0000',
    '{"name":"x","plan":"pro",}',
    "{'name':'x'}",
    '\ufeff',
  ]) {
    isProblem(t, await put(body), 400, 'validation_failed', JSON.stringify(body));
  }
  for (const poison of [
    '{"__proto__":{"a":1},"name":"x","plan":"pro"}',
    '{"constructor":{"prototype":{}},"name":"x","plan":"pro"}',
  ]) {
    isProblem(t, await put(poison), 400, 'validation_failed', poison);
  }
  isProblem(
    t,
    await put('{"name":"x","plan":"pro","more":1}'),
    400,
    'validation_failed',
    'an unknown property',
  );
  t.strictSame(
    (await put('{"name":"x","plan":"pro","more":1,"a/b":2}')).json.errors
      .map((error: { path: string }) => error.path)
      .sort(),
    ['/a~1b', '/more'],
  );
  isProblem(t, await put(`${'['.repeat(5_000)}`), 400, 'validation_failed', 'deep nesting');
  isProblem(t, await put(good, 'text/plain'), 415, 'unsupported_media_type', 'text');
  isProblem(t, await put(good, 'application/xml'), 415, 'unsupported_media_type', 'xml');
  isProblem(
    t,
    await put(good, 'application/x-www-form-urlencoded'),
    415,
    'unsupported_media_type',
    'a form',
  );
  isProblem(t, await put(good, ';'), 415, 'unsupported_media_type', 'no type at all');
  isProblem(
    t,
    await put(`{"name":"${'x'.repeat(300_000)}","plan":"pro"}`),
    413,
    'payload_too_large',
    '300 kB',
  );
  t.equal((await app.call('/v1/environments/new')).status, 404, 'no environment was created');
});

t.test('gives every request a new id, for any id that the caller sends', async t => {
  const idFor = async (given: string) =>
    (await ask(`${app.origin}/nothing`, { headers: { 'x-request-id': given } })).json.requestId;
  for (const given of ['abc-1.2:3_4', 'a b', 'x'.repeat(65), '<script>', '"', ''])
    t.match(await idFor(given), /^[0-9a-f-]{36}$/);
});

t.test('answers malformed HTTP with a problem and closes the connection', async t => {
  for (const garbage of [
    'garbage\r\n\r\n',
    'GET / HTTP/9.9\r\n\r\n',
    'GET /\u0000 HTTP/1.1\r\nHost: x\r\n\r\n',
    '\u0016\u0003\u0001\u0002\u0000',
    `GET / HTTP/1.1\r\nHost: x\r\nX: ${'y'.repeat(40_000)}\r\n\r\n`,
    'POST /v1/environments HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n',
  ]) {
    const connection = await connectRaw(app.port);
    connection.socket.write(garbage);
    await connection.closed;
    const text = connection.received().toString();
    t.match(text, /^HTTP\/1\.1 4\d\d /, JSON.stringify(garbage.slice(0, 20)));
    t.match(text, /application\/problem\+json/);
    const problem = JSON.parse(text.slice(text.indexOf('\r\n\r\n') + 4));
    t.equal(problem.code, 'validation_failed');
  }
  t.equal((await app.call('/health/live')).status, 200);
});

t.test('answers a malformed HEAD request without a body', async t => {
  for (const [broken, status] of [
    [`HEAD /${'x'.repeat(20_000)} HTTP/1.1\r\nHost: x\r\n\r\n`, 431],
    [`HEAD / HTTP/1.1\r\nHost: x\r\nX: ${'y'.repeat(20_000)}\r\n\r\n`, 431],
    ['HEAD / HTTP/9.9\r\n\r\n', 400],
  ] as const) {
    const connection = await connectRaw(app.port);
    connection.socket.write(broken);
    await connection.closed;
    const text = connection.received().toString();
    t.match(text, new RegExp(`^HTTP/1\\.1 ${status} `));
    t.ok(text.endsWith('\r\n\r\n'), 'no body');
  }
});

/**
 * Sends the whole body, regardless of an early answer, as many clients do. Reads the answer
 * afterwards.
 *
 * @param beforeEnd runs when only the end of the body is missing
 */
async function sendThrough(
  head: string,
  megabytes: number,
  beforeEnd = () => {},
): Promise<{ text: string; closed: string | null }> {
  const connection = await connectRaw(app.port);
  connection.socket.write(head);
  const piece = Buffer.alloc(64 * 1024, 'x');
  let closed: string | null = null;
  connection.closed.then(how => {
    closed = how;
  });
  for (let sent = 0; sent < megabytes * 16 && closed === null; sent += 1) {
    connection.socket.write(`${piece.length.toString(16)}\r\n`);
    connection.socket.write(piece);
    if (!connection.socket.write('\r\n'))
      await Promise.race([
        new Promise(resolve => connection.socket.once('drain', resolve)),
        connection.closed,
      ]);
  }
  beforeEnd();
  connection.socket.write('0\r\n\r\n');
  await connection.waitFor(/\r\n\r\n/);
  const text = connection.received().toString();
  // The same connection must serve another request.
  if (closed === null) {
    connection.socket.write('GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n');
    await connection.waitFor(/\{"status":"ok"\}/);
  }
  connection.socket.destroy();
  return { text, closed };
}

t.test(
  'sends an early answer to a client that is still sending, and keeps its connection',
  async t => {
    const head = (path: string, token: string) =>
      `PUT ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nAuthorization: Bearer ${token}\r\nTransfer-Encoding: chunked\r\n\r\n`;
    const path = '/v1/environments/acme/snapshots/2026-03-01';
    const header = `${ingestColumns.join(',')}\n`;
    const start = `${(header.length + 6).toString(16)}\r\n${header}a,b,c\n\r\n`;
    for (const [name, text, status, code] of [
      ['no such key', head(path, 'nobody'), 401, 'unauthenticated'],
      ['no such environment', head(path.replace('acme', 'none'), testAdminToken), 404, 'not_found'],
      [
        'a date in the future',
        head(path.replace('2026', '2027'), testAdminToken),
        400,
        'validation_failed',
      ],
      [
        'an invalid header',
        `${head(path, testAdminToken)}6\r\na,b,c\n\r\n`,
        422,
        'snapshot_invalid',
      ],
      [
        'an invalid row near the start',
        head(path, testAdminToken) + start,
        422,
        'snapshot_invalid',
      ],
    ] as const) {
      const { text: answer, closed } = await sendThrough(text, 12);
      t.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `), name);
      t.match(answer, new RegExp(`"code":"${code}"`), name);
      t.equal(closed, null, `${name}: not reset`);
    }
    await waitFor('the end of all ingests', () => app.dependencies.ingestLimit.active === 0);
  },
);

t.test('sends an early answer to a client with Connection: close, then closes', async t => {
  const csv = '/v1/environments/acme/snapshots/2026-03-01';
  const mebibyte = Buffer.alloc(2 ** 20, 'x\n');
  for (const [name, method, path, token, type, status] of [
    ['no such key', 'PUT', csv, 'nobody', 'text/csv', 401],
    ['an invalid row', 'PUT', csv, testAdminToken, 'text/csv', 422],
    ['a body on a GET request', 'GET', '/metrics', testAdminToken, 'application/json', 200],
    [
      'a JSON body that is too large',
      'PUT',
      '/v1/environments/acme',
      testAdminToken,
      'application/json',
      413,
    ],
  ] as const) {
    const connection = await connectRaw(app.port);
    connection.socket.write(
      `${method} ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: ${type}\r\n` +
        `Authorization: Bearer ${token}\r\nContent-Length: ${8 * 2 ** 20}\r\n\r\n`,
    );
    for (let sent = 0; sent < 8; sent += 1) connection.socket.write(mebibyte);
    t.equal(await connection.closed, 'end', `${name}: not reset`);
    const text = connection.received().toString();
    t.match(text, new RegExp(`^HTTP/1\\.1 ${status} `), name);
    const [head = '', body] = text.split('\r\n\r\n');
    t.equal(body?.length, Number(/content-length: (\d+)/i.exec(head)?.[1]), `${name}: whole`);
  }
});

t.test('refuses a JSON body of 24 MiB without buffering it', async t => {
  const head =
    'PUT /v1/environments/acme HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n' +
    `Authorization: Bearer ${testAdminToken}\r\nTransfer-Encoding: chunked\r\n\r\n`;
  const before = liveMemoryMib();
  let mib = Number.NaN;
  const { text } = await sendThrough(head, 24, () => {
    mib = liveMemoryMib() - before;
  });
  t.match(text, /^HTTP\/1\.1 413 /);
  t.ok(mib < 8, `${mib.toFixed(1)} MiB more`);
});

t.test('serves answers and errors over one keep-alive connection', async t => {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  const localPorts = new Set<number | undefined>();
  agent.on('free', (socket: { localPort?: number }) => localPorts.add(socket.localPort));
  const authorization = { authorization: `Bearer ${testAdminToken}` };
  for (let round = 0; round < 3; round += 1) {
    t.equal((await ask(`${app.origin}/v1/environments`, { agent })).status, 401);
    t.equal(
      (await ask(`${app.origin}/v1/environments`, { agent, headers: authorization })).status,
      200,
    );
    const body = Readable.from([ingestBody([adoptionRow()]), 'bad row\n']);
    const ingested = await ask(`${app.origin}/v1/environments/acme/snapshots/2026-03-01`, {
      method: 'PUT',
      agent,
      headers: { ...authorization, 'content-type': 'text/csv' },
      body,
    });
    t.equal(ingested.status, 422);
    t.equal(
      (
        await ask(`${app.origin}/v1/environments/acme/exports/today.csv`, {
          agent,
          headers: authorization,
        })
      ).status,
      200,
    );
  }
  await delay(0);
  t.equal(localPorts.size, 1);
  agent.destroy();
});

t.test('logs a caller that disconnects in the middle of a body as information', async t => {
  const lines = app.log.length;
  const connection = await connectRaw(app.port);
  connection.socket.write(
    `PUT /v1/environments/acme/snapshots/2026-03-01 HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n` +
      `Authorization: Bearer ${testAdminToken}\r\nContent-Length: 1000\r\n\r\n${ingestColumns.join(',')}\n`,
  );
  await waitFor('the start of the ingest', () => app.dependencies.ingestLimit.active === 1);
  connection.socket.destroy();
  await waitFor('the end of the ingest', () => app.dependencies.ingestLimit.active === 0);
  const hungUp = () =>
    app.log.slice(lines).find(line => line['msg'] === 'request aborted by the caller');
  await waitFor('the line in the log', () => hungUp() !== undefined);
  t.equal(hungUp()?.['level'], 30);
  t.equal(
    app.log.slice(lines).some(line => Number(line['level']) > 30),
    false,
  );
});
