import { randomUUID } from 'node:crypto';
import t from 'tap';
import { exchange } from '../faults/raw-exchange.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startApp, startTestApp } from '../helpers/app.ts';
import { type Answer, ask, open } from '../helpers/http-client.ts';
import { longestBlockMs } from '../helpers/longest-block.ts';
import { connectRaw } from '../helpers/raw-http.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';

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
  for (const [index, limit] of ['1', '50', '100', '007', '2'].entries())
    t.equal((await app.call(`${lists[index]}?limit=${limit}`)).status, 200, limit);
});

t.test('refuses a limit that is not in decimal digits', async t => {
  const refused = [
    ...['1.5', '1.0', '0x10', '1e2', '%205', '5%20', '%2B5', '', '-1', '0', '101', 'ten', 'true'],
    ...['%D9%A1', '0b1', '0o7', '1_0', '1,0', 'Infinity', 'null', '99999999999999999999', '%00'],
    ...['5&limit=6'],
  ].map(value => `limit=${value}`);
  // All lists have the same schema of the limit.
  for (const [index, query] of [...refused, 'limit'].entries()) {
    const path = lists[index % lists.length];
    const answer = await app.call(`${path}?${query}`);
    t.equal(answer.status, 400, `${path} ${query}`);
    t.equal(answer.json.code, 'validation_failed');
    t.equal(answer.json.errors[0]?.path, '/query/limit', `${path} ${query} ${answer.text}`);
  }
});

const authorization = { authorization: `Bearer ${testAdminToken}` };
const json = { 'content-type': 'application/json' };
const linesOf = (id: string) => app.log.filter(line => line['requestId'] === id);
const ownId = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const newId = () => `caller.${randomUUID()}`;

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
      await waitFor('a line in the log', () => linesOf(given).length >= 1);
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
  await waitFor('a line in the log', () =>
    linesOf(id).some(line => line['callerRequestId'] === 'before'),
  );
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
  await app.putEnvironment('broken');
  await app.ingest('broken', '2026-03-01', ingestBody([adoptionRow()]));
  const before = newId();
  await pool.query('alter table snapshots rename to hidden');
  const url = `${app.origin}/v1/environments/broken/exports/today.csv`;
  const failed = await ask(url, { headers: { ...authorization, 'x-request-id': before } });
  await pool.query('alter table hidden rename to snapshots');
  t.equal(failed.status, 503);
  t.match(failed.json.requestId, ownId);
  t.ok(linesOf(failed.json.requestId).some(line => line['msg'] === 'request failed'));

  const after = newId();
  await pool.query(`update snapshots set row_count = 99 where environment_id = 'broken'`);
  const response = await open(url, { headers: { ...authorization, 'x-request-id': after } });
  const given = String(response.headers['x-request-id']);
  response.on('error', () => {}).resume();
  await waitFor('a line in the log', () =>
    linesOf(given).some(line => line['msg'] === 'download failed'),
  );
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
    await waitFor('a line in the log', () => lines().length === 1);
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

t.test('answers requests from pages of other origins (CORS)', async t => {
  const good = 'https://app.example.com';
  const cors = await startApp(t, {
    databaseUrl: app.database.url,
    env: { CORS_ORIGINS: `${good},http://localhost:5173` },
  });

  const strangers = [
    'https://app.example.com.evil.example',
    'https://evil.example',
    'http://app.example.com',
    'https://app.example.com:8443',
    'https://APP.example.com',
    'https://app.example.com/',
    'https://app.example.com, https://evil.example',
    'null',
    '*',
    '',
  ];

  function corsHeaders(answer: Answer): Record<string, unknown> {
    return Object.fromEntries(
      Object.entries(answer.headers).filter(([name]) => name.startsWith('access-control-')),
    );
  }

  const shown = {
    'access-control-allow-origin': good,
    'access-control-expose-headers':
      'Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, Retry-After, X-Missing-Dates, X-Request-Id, X-Total-Rows',
  };

  t.test('lets pages of an allowed origin read answers and problems', async t => {
    const key = await cors.makeKey('acme', ['snapshots:write']);
    for (const [status, path, options] of [
      [200, '/v1/environments/acme', {}],
      [200, '/v1/environments/acme/exports/today.csv', {}],
      [200, '/v1/environments/acme/exports/today.csv', { method: 'HEAD' }],
      [200, '/health/live', { token: null }],
      [400, '/v1/environments/acme?x=1', { method: 'PUT', json: {} }],
      [400, '/v1/environments/%', {}],
      [400, `/v1/downloads/${'x'.repeat(2_300)}`, {}],
      [401, '/v1/environments/acme', { token: null }],
      [401, '/v1/downloads/none', { token: null }],
      [403, '/v1/environments/acme/exports', { token: key.token }],
      [404, '/v1/environments/absent', {}],
      [404, '/v1/nothing', {}],
      [413, '/v1/environments/acme', { method: 'PUT', json: { name: 'x'.repeat(300_000) } }],
      [
        415,
        '/v1/environments/acme',
        { method: 'PUT', headers: { 'content-type': 'text/xml' }, body: '<a/>' },
      ],
    ] as const) {
      const what = `${status} ${path}`;
      const answer = await cors.call(path, {
        ...options,
        headers: { origin: good, ...('headers' in options ? options.headers : {}) },
      });
      t.equal(answer.status, status, what);
      t.strictSame(corsHeaders(answer), shown, what);
      t.match(answer.headers.vary, /^(accept-encoding, )?Origin$/, what);
    }
  });

  t.test('answers a preflight of every route without a token', async t => {
    for (const [method, path] of [
      ['PUT', '/v1/environments/acme'],
      ['DELETE', '/v1/environments/absent'],
      ['PATCH', '/v1/environments/acme/export-configs/x'],
      ['GET', '/v1/environments/acme/exports/today.csv'],
      ['POST', '/v1/nothing'],
    ] as const) {
      const answer = await ask(cors.origin + path, {
        method: 'OPTIONS',
        headers: {
          origin: good,
          'access-control-request-method': method,
          'access-control-request-headers': 'authorization,content-type',
        },
      });
      t.equal(answer.status, 204, path);
      t.equal(answer.text, '');
      t.strictSame(corsHeaders(answer), {
        ...shown,
        'access-control-allow-methods': 'GET, HEAD, PUT, POST, PATCH, DELETE',
        'access-control-allow-headers':
          'Authorization, Content-Digest, Content-Encoding, Content-Type, Range, X-Request-Id, If-Match, If-Modified-Since, If-None-Match, If-Range, If-Unmodified-Since',
        'access-control-max-age': '600',
      });
    }
  });

  t.test('sends no CORS headers to other origins or without an Origin header', async t => {
    const preflight = { 'access-control-request-method': 'PUT' };
    for (const origin of [...strangers, undefined]) {
      const headers = origin === undefined ? {} : { origin };
      const read = await cors.call('/v1/environments/acme', { headers });
      t.equal(read.status, 200, 'the browser, not the service, blocks the page');
      t.strictSame(corsHeaders(read), {}, String(origin));
      t.equal(read.headers.vary, 'Origin', 'the Vary header separates the answers in caches');
      const broken = await cors.call('/v1/environments/%', { headers });
      t.equal(broken.status, 400);
      t.strictSame(corsHeaders(broken), {}, String(origin));
      t.equal(broken.headers.vary, 'Origin');
      const asked = await ask(`${cors.origin}/v1/environments/acme`, {
        method: 'OPTIONS',
        headers: { ...headers, ...preflight },
      });
      t.equal(asked.status, 404, String(origin));
      t.equal(asked.json.code, 'not_found');
      t.strictSame(corsHeaders(asked), {}, String(origin));
    }
  });

  t.test('sends no CORS headers without CORS_ORIGINS', async t => {
    for (const method of ['GET', 'OPTIONS']) {
      const answer = await app.call('/v1/environments', { method, headers: { origin: good } });
      t.equal(answer.status, method === 'GET' ? 200 : 405);
      t.strictSame(corsHeaders(answer), {});
      t.notOk(answer.headers.vary);
    }
  });
});

const environment = '/v1/environments/acme';
const routes = [
  ['PUT', environment],
  ['POST', `${environment}/api-keys`],
  ['POST', `${environment}/download-links`],
  ['POST', `${environment}/export-configs`],
  ['POST', `${environment}/export-configs/validate`],
] as const;

/** Returns bodies of about the given size that are expensive to parse or to validate. */
const shapes: Readonly<Record<string, (bytes: number) => string>> = {
  'many unknown properties': bytes =>
    `{${Array.from({ length: bytes / 9 }, (_, index) => `"p${index}":1`).join(',')}}`,
  'nested arrays': bytes => '['.repeat(bytes / 2) + ']'.repeat(bytes / 2),
  'nested arrays in a field': bytes =>
    `{"scopes":${'['.repeat(bytes / 2 - 10)}${']'.repeat(bytes / 2 - 10)}}`,
  'nested objects': bytes => `${'{"a":'.repeat(bytes / 6 - 2)}1${'}'.repeat(bytes / 6 - 2)}`,
  'a long string': bytes => `{"name":"${'x'.repeat(bytes - 20)}"}`,
  'a long property name': bytes => `{"${'~/'.repeat(bytes / 2 - 20)}":1}`,
  'a long number': bytes => `{"expiresInSeconds":${'9'.repeat(bytes - 30)}}`,
  'a number beyond every range': bytes => `{"expiresInSeconds":1e${'9'.repeat(bytes - 30)}}`,
  'many items': bytes => `{"scopes":[${'1,'.repeat(bytes / 2 - 20)}1]}`,
  'many equal items': bytes =>
    `{"name":"x","scopes":[${'"exports:read",'.repeat(bytes / 15 - 20)}"exports:read"]}`,
  'many prototypes': bytes => `{${'"__proto__":1,'.repeat(bytes / 14 - 2)}"a":1}`,
};

for (const kib of [15, 18, 250]) {
  t.test(`answers bodies of ${kib} KiB without blocking the event loop`, async t => {
    const isTooLarge = kib > 16;
    for (const [index, [shape, make]] of Object.entries(shapes).entries()) {
      const body = make(Math.floor(kib * 1024));
      // Bodies that are too large reach no schema of a route.
      const some = isTooLarge ? [routes[index % routes.length] ?? routes[0]] : routes;
      for (const [method, path] of some) {
        const blockedMs = await longestBlockMs(async () => {
          const answer = await app.call(path, { method, body, headers: json });
          const what = `${method} ${path}: ${shape}: ${answer.text.slice(0, 200)}`;
          t.equal(answer.status, isTooLarge ? 413 : 400, what);
          if (isTooLarge) t.equal(answer.json.code, 'payload_too_large', what);
          else t.ok(answer.json.errors.length <= 20, what);
          t.ok(answer.text.length < 8_192, `${what}: ${answer.text.length} bytes`);
        });
        t.ok(blockedMs < 50, `${method} ${path}: ${shape}: ${blockedMs} ms`);
      }
    }
  });
}

const put = async (body: string) => {
  const answer = await app.call(environment, { method: 'PUT', body, headers: json });
  return answer.json.errors as { path: string; message: string }[];
};

t.test('names the first unknown properties as JSON pointers', async t => {
  t.strictSame(await put('{"name":"a","plan":"pro","a/b":1,"c~d":1}'), [
    { path: '/a~1b', message: 'is not a known property' },
    { path: '/c~0d', message: 'is not a known property' },
  ]);
  const many = Object.fromEntries(Array.from({ length: 30 }, (_, index) => [`p${index}`, 1]));
  const errors = await put(JSON.stringify({ name: 'a', plan: 'pro', ...many }));
  t.equal(errors.length, 20);
  t.strictSame(errors[0], { path: '/p0', message: 'is not a known property' });
});

t.test('refuses too many values and too deep nesting by name', async t => {
  t.strictSame(await put(JSON.stringify({ name: 'a', plan: Array(200).fill(1) })), [
    { path: '', message: 'has more than 200 values' },
  ]);
  t.strictSame(await put(`{"name":${'['.repeat(9)}${']'.repeat(9)}}`), [
    { path: '', message: 'is nested more than 8 levels deep' },
  ]);
});
