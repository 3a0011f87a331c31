import t from 'tap';
import { startTestApp } from '../helpers/app.ts';
import { longestBlockMs } from '../helpers/longest-block.ts';
import { connectRaw } from '../helpers/raw-http.ts';
import { scaled } from '../helpers/scale.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { exchange } from './raw-exchange.ts';

/** A burst of requests on one connection does not delay the requests of others. */

t.setTimeout(300_000);

const maxBlockMs = 50;
const app = await startTestApp(t, { env: { RATE_LIMIT_FAILED_LOGINS: '20' } });
await app.putEnvironment('acme');

const authorization = `Authorization: Bearer ${testAdminToken}`;
const get = (path: string, ...headers: string[]) =>
  [`GET ${path} HTTP/1.1`, 'Host: a', ...headers, '', ''].join('\r\n');

const bursts: Record<string, { request: string; status: number; count: number }> = {
  metrics: { request: get('/metrics'), status: 200, count: scaled(1_000, 300) },
  readiness: { request: get('/health/ready'), status: 200, count: scaled(10_000, 3_000) },
  liveness: { request: get('/health/live'), status: 200, count: scaled(10_000, 3_000) },
  'the API document': { request: get('/openapi.yaml'), status: 200, count: scaled(300, 100) },
  'the API page': { request: get('/docs'), status: 200, count: scaled(1_000, 300) },
  'the API document as JSON': { request: get('/docs/json'), status: 200, count: scaled(300, 100) },
  'unknown paths': { request: get('/nothing'), status: 404, count: scaled(3_000, 1_000) },
  'invalid paths': { request: get('/%zz'), status: 400, count: scaled(3_000, 1_000) },
  'unknown methods': {
    request: get('/health/live').replace('GET', 'POST'),
    status: 405,
    count: scaled(3_000, 1_000),
  },
  'requests without a token': {
    request: get('/v1/environments'),
    status: 429,
    count: scaled(3_000, 1_000),
  },
  'requests of the operator': {
    request: get('/v1/environments/acme', authorization),
    status: 200,
    count: scaled(1_000, 300),
  },
  'invalid bodies': {
    request: `PUT /v1/environments/acme HTTP/1.1\r\nHost: a\r\n${authorization}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}`,
    status: 400,
    count: scaled(1_000, 300),
  },
};

async function send({ request, status, count }: (typeof bursts)[string]): Promise<void> {
  const connection = await connectRaw(app.port);
  let answered = 0;
  let rest = '';
  connection.socket.on('data', (chunk: Buffer) => {
    const text = rest + chunk.toString('latin1');
    answered += text.split(`HTTP/1.1 ${status} `).length - 1;
    // The mark has 13 characters and may span two chunks.
    rest = text.slice(-12);
  });
  connection.socket.write(request.repeat(count));
  await waitFor(`${count} answers`, () => answered >= count, { limitMs: 120_000 });
  connection.socket.destroy();
}

for (const [name, burst] of Object.entries(bursts)) {
  t.test(`is not blocked by a burst of ${name}`, async t => {
    // The first requests compile code and use up the failed logins.
    await send({ ...burst, status: burst.status === 429 ? 401 : burst.status, count: 10 });
    if (burst.status === 429) await send({ ...burst, status: 401, count: 10 });
    const blockMs = await longestBlockMs(() => send(burst), maxBlockMs);
    t.ok(blockMs < maxBlockMs, `blocked for ${Math.round(blockMs)} ms`);
  });
}

t.test('answers the requests before malformed bytes, then 400', async t => {
  const head = `PUT /v1/environments/acme HTTP/1.1\r\nHost: a\r\n${authorization}\r\n`;
  const json = 'Content-Type: application/json\r\n';
  for (const [name, bytes, expected] of [
    ['a malformed request', '\0\r\n\r\n', [200, 400]],
    ['a malformed body', `${head}${json}Transfer-Encoding: chunked\r\n\r\nzz\r\n`, [200, 400]],
    ['a malformed header', `${head}a b: c\r\n\r\n`, [200, 400]],
  ] as const) {
    for (const count of [1, 100]) {
      const { answers } = await exchange(app.port, [
        get('/v1/environments/acme', authorization).repeat(count) + bytes,
      ]);
      const statuses = answers.map(({ status }) => status);
      t.equal(statuses.length, count + 1, `${name} after ${count}`);
      t.strictSame([...new Set(statuses)], expected, name);
    }
  }
});

t.test('keeps no connection that has ended', async () => {
  const close = get('/health/live', 'Connection: close');
  await exchange(app.port, [
    get('/health/live').repeat(10) + close + get('/health/live').repeat(300),
  ]);
  const open = () =>
    new Promise<number>((resolve, reject) => {
      app.app.server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
    });
  await waitFor('the end of all connections', async () => (await open()) === 0);
});
