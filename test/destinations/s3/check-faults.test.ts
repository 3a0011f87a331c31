import type { Socket } from 'node:net';
import t from 'tap';
import { type CheckResult, checkDestination } from '../../../src/destinations/s3/check.ts';
import { parseEndpointAllowlist } from '../../../src/outbound/endpoint-allowlist.ts';
import {
  type Answer,
  createDocument,
  errorDocument,
  type FakeEndpoint,
  fakeEndpoint,
  fakeSocket,
  listDocument,
} from './fake-endpoint.ts';

const environment = { allowlist: parseEndpointAllowlist(['127.0.0.1']) };
const credentials = { accessKeyId: 'AKIATEST', secretAccessKey: 'not-a-real-secret' };

async function check(
  { destination }: FakeEndpoint,
  limitMs = 10_000,
  signal?: AbortSignal,
): Promise<CheckResult> {
  const request = { destination, access: credentials, objectKey: 'exports/file.csv', limitMs };
  return await checkDestination(signal ? { ...request, signal } : request, environment);
}

function outcome({ checks }: CheckResult): string[] {
  return checks.map(({ error }) => error?.code ?? 'ok');
}

const send =
  (status: number, body: string, headers: Record<string, string> = {}): Answer =>
  (_, response) => {
    response.writeHead(status, headers).end(body);
  };

/** Returns an answer function of a working S3. Each step can be replaced. */
const working =
  (steps: Partial<Record<'list' | 'create' | 'abort', Answer>> = {}): Answer =>
  (request, response) => {
    const step = request.method === 'GET' ? 'list' : request.method === 'POST' ? 'create' : 'abort';
    const normal = {
      list: send(200, listDocument),
      create: send(200, createDocument('u1')),
      abort: send(204, ''),
    };
    (steps[step] ?? normal[step])(request, response);
  };

t.test('reports the error of an endpoint that answers wrongly', async t => {
  const twice = (code: string) => [code, code];
  const table: [string, Answer, string[]][] = [
    ['an S3 that works', working(), ['ok', 'ok']],
    ['200 with HTML', send(200, '<html><body>Welcome</body></html>'), twice('not_s3')],
    ['200 with HTML that is not XML', send(200, '<!doctype html><p>Welcome<br>'), twice('not_s3')],
    ['200 with an empty body', send(200, ''), twice('not_s3')],
    ['204', send(204, ''), twice('not_s3')],
    ['301 of a web server', send(301, '', { location: 'http://127.0.0.1:1/' }), twice('not_s3')],
    ['301 of S3', send(301, errorDocument('PermanentRedirect')), twice('wrong_region')],
    [
      '400 that names the region',
      send(400, errorDocument('AuthorizationHeaderMalformed', '<Region>eu-west-1</Region>')),
      twice('wrong_region'),
    ],
    ['503 SlowDown', send(503, errorDocument('SlowDown')), twice('storage_unavailable')],
    [
      'a refused abort',
      working({ abort: send(403, errorDocument('AccessDenied')) }),
      ['ok', 'write_denied'],
    ],
    [
      'a failed abort',
      working({ abort: send(500, errorDocument('InternalError')) }),
      ['ok', 'storage_unavailable'],
    ],
    ['an upload without id', working({ create: send(200, '<a></a>') }), ['ok', 'not_s3']],
  ];
  for (const [title, answer, expected] of table) {
    const endpoint = await fakeEndpoint(answer);
    t.strictSame(outcome(await check(endpoint, 5_000)), expected, title);
    await endpoint.close();
  }
});

t.test('checks with the real prefix and the real key, and sends nothing else', async t => {
  const endpoint = await fakeEndpoint(working());
  t.equal((await check(endpoint)).valid, true);
  t.strictSame(endpoint.requests.toSorted(), [
    'DELETE /acme/exports/file.csv?uploadId=u1&x-id=AbortMultipartUpload',
    'GET /acme/?list-type=2&max-keys=1&prefix=exports%2F',
    'POST /acme/exports/file.csv?uploads=',
  ]);
  await endpoint.close();
});

t.test('answers in time when an endpoint hangs at any stage or sends without end', async t => {
  const head = 'HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\n';
  const drip = (text: string) => (socket: Socket) => {
    socket.once('data', () => {
      socket.write(text);
      const timer = setInterval(() => socket.write('a'), 20);
      socket.once('close', () => clearInterval(timer));
    });
  };
  const table: [string, (socket: Socket) => void, string[], limitMs?: number][] = [
    ['accepts the connection and sends nothing', () => {}, ['timeout']],
    [
      'stops within the headers',
      socket => socket.once('data', () => socket.write(head)),
      ['timeout'],
    ],
    ['sends headers without end', drip(`${head}X-A: `), ['timeout', 'not_s3']],
    [
      'stops within the body',
      socket => socket.once('data', () => socket.write(`${head}\r\n<a>`)),
      ['timeout'],
    ],
    ['sends a body without end', drip(`${head}\r\n<a>`), ['timeout']],
    [
      'floods',
      socket =>
        socket.once('data', () => {
          socket.write(`${head}\r\n<a>`);
          const flood = () => {
            while (!socket.destroyed && socket.write('a'.repeat(65_536)));
          };
          socket.on('drain', flood);
          flood();
        }),
      ['not_s3'],
      // The size limit ends this check, not the time limit. On a busy machine that takes longer.
      10_000,
    ],
    ['closes the connection at once', socket => socket.destroy(), ['endpoint_unreachable'], 10_000],
    [
      'closes the connection within the body',
      socket => socket.once('data', () => socket.end(`${head}Content-Length: 99\r\n\r\n<a>`)),
      ['endpoint_unreachable'],
      10_000,
    ],
    [
      'speaks another protocol',
      socket => socket.end('220 mail.example ESMTP\r\n'),
      ['not_s3'],
      10_000,
    ],
  ];
  for (const [title, behave, allowed, limitMs = 700] of table) {
    const endpoint = await fakeSocket(behave);
    const started = performance.now();
    const result = await check(endpoint, limitMs);
    const tookMs = performance.now() - started;
    t.ok(
      outcome(result).every(code => allowed.includes(code)),
      `${title}: ${outcome(result)}`,
    );
    t.ok(tookMs < limitMs + 5_000, `${title}: answered after ${Math.round(tookMs)} ms`);
    await endpoint.close();
  }
});

t.test('reports timeout when the TLS handshake hangs', async t => {
  const { destination, close } = await fakeSocket(() => {});
  const secure = {
    ...destination,
    endpoint: destination.endpoint?.replace('http:', 'https:') ?? '',
  };
  const request = { destination: secure, access: credentials, objectKey: 'k', limitMs: 500 };
  t.strictSame(outcome(await checkDestination(request, environment)), ['timeout', 'timeout']);
  await close();
});

t.test('aborts an upload that starts after the check has timed out', async t => {
  const started = Promise.withResolvers<() => void>();
  const aborted = Promise.withResolvers<void>();
  const endpoint = await fakeEndpoint(
    working({
      create: (_, response) => started.resolve(() => response.end(createDocument('late'))),
      abort: (_, response) => {
        response.writeHead(204).end();
        aborted.resolve();
      },
    }),
  );
  t.strictSame(outcome(await check(endpoint, 1_500)), ['ok', 'timeout']);
  t.notOk(endpoint.requests.some(line => line.startsWith('DELETE')));
  (await started.promise)();
  await aborted.promise;
  t.match(endpoint.requests.at(-1), /^DELETE .*uploadId=late/);
  await endpoint.close();
});

t.test('ends the check when the caller aborts it', async t => {
  const reached = Promise.withResolvers<void>();
  const endpoint = await fakeSocket(() => reached.resolve());
  const gone = new AbortController();
  const checking = check(endpoint, 10_000, gone.signal);
  const started = performance.now();
  await reached.promise;
  gone.abort(new Error('gone'));
  await t.rejects(checking, { message: 'gone' });
  t.ok(performance.now() - started < 9_000, 'before its time limit');
  await endpoint.close();
});
