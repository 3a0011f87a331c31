import t from 'tap';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startApp, startTestApp } from '../helpers/app.ts';
import { type Answer, ask } from '../helpers/http-client.ts';

const good = 'https://app.example.com';
const app = await startTestApp(t, { env: { CORS_ORIGINS: `${good},http://localhost:5173` } });
await app.putEnvironment('acme', 'pro');
await app.ingest('acme', '2026-03-01', ingestBody([adoptionRow()]));

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
  const key = await app.makeKey('acme', ['snapshots:write']);
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
    const answer = await app.call(path, {
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
    const answer = await ask(app.origin + path, {
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
    const read = await app.call('/v1/environments/acme', { headers });
    t.equal(read.status, 200, 'the browser, not the service, blocks the page');
    t.strictSame(corsHeaders(read), {}, String(origin));
    t.equal(read.headers.vary, 'Origin', 'the Vary header separates the answers in caches');
    const broken = await app.call('/v1/environments/%', { headers });
    t.equal(broken.status, 400);
    t.strictSame(corsHeaders(broken), {}, String(origin));
    t.equal(broken.headers.vary, 'Origin');
    const asked = await ask(`${app.origin}/v1/environments/acme`, {
      method: 'OPTIONS',
      headers: { ...headers, ...preflight },
    });
    t.equal(asked.status, 404, String(origin));
    t.equal(asked.json.code, 'not_found');
    t.strictSame(corsHeaders(asked), {}, String(origin));
  }
});

t.test('sends no CORS headers without CORS_ORIGINS', async t => {
  const plain = await startApp(t, { databaseUrl: app.database.url });
  for (const method of ['GET', 'OPTIONS']) {
    const answer = await plain.call('/v1/environments', { method, headers: { origin: good } });
    t.equal(answer.status, method === 'GET' ? 200 : 405);
    t.strictSame(corsHeaders(answer), {});
    t.notOk(answer.headers.vary);
  }
});
