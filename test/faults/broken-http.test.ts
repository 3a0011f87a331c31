import fc from 'fast-check';
import t from 'tap';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startTestApp } from '../helpers/app.ts';
import { scaled, seed } from '../helpers/scale.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { exchange, type RawAnswer } from './raw-exchange.ts';

/** Bytes that are almost HTTP, outside of what openapi.yaml describes. */

t.setTimeout(900_000);

const app = await startTestApp(t);
await app.putEnvironment('acme', 'enterprise');
const csv = ingestBody([adoptionRow()]);
await app.ingest('acme', '2026-03-01', csv);

interface Request {
  readonly method: string;
  readonly path: string;
  readonly type?: string;
  readonly body?: string;
  readonly status: number;
}

const good: readonly Request[] = [
  { method: 'GET', path: '/health/live', status: 200 },
  { method: 'GET', path: '/v1/environments/acme', status: 200 },
  { method: 'GET', path: '/v1/environments/acme/exports/today.csv', status: 200 },
  { method: 'HEAD', path: '/v1/environments/acme/exports/30-days-daily.csv', status: 200 },
  { method: 'GET', path: '/v1/environments/acme/snapshots?limit=1', status: 200 },
  { method: 'GET', path: '/v1/environments/nobody', status: 404 },
  { method: 'DELETE', path: '/v1/environments/acme/api-keys/0', status: 404 },
  {
    method: 'PUT',
    path: '/v1/environments/acme',
    type: 'application/json',
    body: '{"name":"x","plan":"enterprise"}',
    status: 200,
  },
  {
    method: 'POST',
    path: '/v1/environments/acme/download-links',
    type: 'application/json',
    body: '{"aggregation":"today"}',
    status: 201,
  },
  {
    method: 'POST',
    path: '/v1/environments/acme/api-keys',
    type: 'application/json',
    body: '{"name":"x"}',
    status: 400,
  },
  {
    method: 'PUT',
    path: '/v1/environments/acme/snapshots/2026-03-01',
    type: 'text/csv',
    body: csv,
    status: 200,
  },
  {
    method: 'PUT',
    path: '/v1/environments/acme/snapshots/2026-03-01',
    type: 'text/csv',
    body: 'x\n',
    status: 422,
  },
];

function write(request: Request, id: string, { isChunked = false, isLast = true } = {}): string {
  const { method, path, type, body } = request;
  const lines = [
    `${method} ${path} HTTP/1.1`,
    'Host: 127.0.0.1',
    `Authorization: Bearer ${testAdminToken}`,
    `X-Request-Id: ${id}`,
    ...(isLast ? ['Connection: close'] : []),
    ...(type === undefined ? [] : [`Content-Type: ${type}`]),
    ...(body === undefined
      ? []
      : [isChunked ? 'Transfer-Encoding: chunked' : `Content-Length: ${body.length}`]),
  ];
  const chunked = body === undefined ? '' : `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`;
  return `${lines.join('\r\n')}\r\n\r\n${isChunked ? chunked : (body ?? '')}`;
}

/**
 * Describes the defect of an answer, or returns null. An error must be a problem document with a
 * status below 500.
 */
function faultOf({ status, headers, body }: RawAnswer): string | null {
  if (status >= 500) return `${status}`;
  if (status < 400 || body.length === 0) return null;
  if (!headers['content-type']?.startsWith('application/problem+json'))
    return `${status} as ${headers['content-type']}`;
  return JSON.parse(body.toString()).status === status ? null : 'another status in the body';
}

const show = (bytes: Buffer) =>
  JSON.stringify(bytes.toString('latin1').replaceAll(testAdminToken, '…').slice(0, 2_000));

const place = fc.double({ min: 0, max: 0.9999, noNaN: true });
type Mutation = (bytes: Buffer) => Buffer;
const insert =
  (what: string): Mutation =>
  bytes =>
    Buffer.concat([
      bytes.subarray(0, bytes.indexOf('\r\n') + 2),
      Buffer.from(what, 'latin1'),
      bytes.subarray(bytes.indexOf('\r\n') + 2),
    ]);
const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  fc.tuple(place, fc.nat({ max: 255 })).map(([at, byte]) => (bytes: Buffer) => {
    const copy = Buffer.from(bytes);
    copy[Math.floor(at * copy.length)] = byte;
    return copy;
  }),
  fc
    .tuple(
      place,
      fc.constantFrom(
        '\r\n',
        '\n',
        '\r',
        '\u0000',
        ' ',
        '\t',
        ':',
        '\r\n\r\n',
        '%',
        '\u00ff',
        'GET / HTTP/1.1\r\n',
      ),
    )
    .map(([at, text]) => (bytes: Buffer) => {
      const index = Math.floor(at * bytes.length);
      return Buffer.concat([
        bytes.subarray(0, index),
        Buffer.from(text, 'latin1'),
        bytes.subarray(index),
      ]);
    }),
  place.map(at => (bytes: Buffer) => bytes.subarray(0, Math.floor(at * bytes.length))),
  fc.tuple(place, fc.integer({ min: 1, max: 30 })).map(([at, count]) => (bytes: Buffer) => {
    const index = Math.floor(at * bytes.length);
    return Buffer.concat([bytes.subarray(0, index), bytes.subarray(index + count)]);
  }),
  fc
    .constantFrom(
      'Content-Length: 0\r\n',
      'Content-Length: 5\r\n',
      'Content-Length: 5, 5\r\n',
      'Content-Length: 1e2\r\n',
      'Content-Length: +5\r\n',
      'Content-Length: 99999999999999999999\r\n',
      'Transfer-Encoding: chunked\r\n',
      'Transfer-Encoding: chunked, chunked\r\n',
      'Transfer-Encoding: gzip, chunked\r\n',
      'Transfer-Encoding: identity\r\n',
      'Transfer-Encoding : chunked\r\n',
      'Transfer-Encoding:\tchunked\r\n',
      'Transfer-Encoding: xchunked\r\n',
      'Host: a\r\nHost: b\r\n',
      'Host: a b\r\n',
      'Authorization: Bearer x\r\n',
      'Content-Type: text/csv\r\n',
      'Content-Encoding: gzip\r\n',
      'X-Request-Id: a\r\nX-Request-Id: b\r\n',
      'X: a\r\n b\r\n',
      ' X: a\r\n',
      ': a\r\n',
      'X\r\n',
      'X: \u0001\r\n',
      'Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n',
      'Expect: 100-continue\r\n',
      'Connection: keep-alive, close, x\r\n',
      `X: ${'y'.repeat(20_000)}\r\n`,
      'X: y\r\n'.repeat(3_000),
    )
    .map(insert),
  fc.constantFrom<Mutation>(
    bytes => Buffer.from(bytes.toString('latin1').replace('HTTP/1.1', 'HTTP/1.0'), 'latin1'),
    bytes => Buffer.from(bytes.toString('latin1').replace('HTTP/1.1', 'HTTP/2.0'), 'latin1'),
    bytes => Buffer.from(bytes.toString('latin1').replace(/^\w+/, 'CONNECT'), 'latin1'),
    bytes => Buffer.from(bytes.toString('latin1').replace(/^\w+/, 'OPTIONS'), 'latin1'),
    bytes =>
      Buffer.from(
        bytes.toString('latin1').replace(/^(\w+) /, '$1 http://elsewhere.example'),
        'latin1',
      ),
    bytes => Buffer.from(bytes.toString('latin1').replace(/^(\w+) \S+/, '$1 *'), 'latin1'),
    bytes => Buffer.from(bytes.toString('latin1').replaceAll('\r\n', '\n'), 'latin1'),
    bytes => Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), bytes]),
    bytes => Buffer.concat([Buffer.from('\r\n\r\n'), bytes]),
    bytes => Buffer.concat([Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]), bytes]),
    // Adds extensions, odd sizes and trailers to the chunks of a chunked body.
    bytes =>
      Buffer.from(
        bytes
          .toString('latin1')
          .replace(/\r\n\r\n([\da-f]+)\r\n/, `\r\n\r\n$1;a="${'x'.repeat(200)}"\r\n`),
        'latin1',
      ),
    bytes =>
      Buffer.from(
        bytes.toString('latin1').replace(/\r\n\r\n([\da-f]+)\r\n/, '\r\n\r\n0000$1\r\n'),
        'latin1',
      ),
    bytes =>
      Buffer.from(
        bytes.toString('latin1').replace(/\r\n\r\n([\da-f]+)\r\n/, '\r\n\r\n-$1\r\n'),
        'latin1',
      ),
    bytes =>
      Buffer.from(
        bytes
          .toString('latin1')
          .replace(/\r\n\r\n([\da-f]+)\r\n/, '\r\n\r\nfffffffffffffffff$1\r\n'),
        'latin1',
      ),
    bytes =>
      Buffer.from(
        bytes.toString('latin1').replace(/\r\n\r\n([\da-f]+)\r\n/, '\r\n\r\n0x$1\r\n'),
        'latin1',
      ),
    bytes =>
      Buffer.from(
        bytes
          .toString('latin1')
          .replace(/0\r\n\r\n$/, '0\r\nContent-Length: 3\r\nAuthorization: x\r\n\r\n'),
        'latin1',
      ),
  ),
);

t.test(
  'answers almost-HTTP bytes with valid HTTP or closes the connection, and keeps serving',
  async t => {
    const statuses = new Map<number, number>();
    const faults = new Map<string, string>();
    const count = scaled(10_000);
    const attempt = fc.record({
      // The service answers an unreadable request with a body, even if it was meant as HEAD.
      request: fc.constantFrom(...good.filter(({ method }) => method !== 'HEAD')),
      isChunked: fc.boolean(),
      mutations: fc.array(mutation, { minLength: 1, maxLength: 2 }),
      cut: fc.option(place),
    });
    const property = fc.asyncProperty(attempt, async ({ request, isChunked, mutations, cut }) => {
      const written = Buffer.from(write(request, 'id-1', { isChunked }), 'latin1');
      const bytes = mutations.reduce<Buffer>((whole, mutate) => mutate(whole), written);
      const at = Math.floor((cut ?? 0) * bytes.length);
      try {
        const { answers } = await exchange(
          app.port,
          cut === null ? [bytes] : [bytes.subarray(0, at), bytes.subarray(at)],
          {
            halfClose: true,
            methods: [request.method],
          },
        );
        for (const answer of answers) {
          statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
          const fault = faultOf(answer);
          if (fault !== null)
            faults.set(fault, `${show(bytes)} → ${answer.body.toString().slice(0, 500)}`);
        }
      } catch (error) {
        // The method may have been mutated to or from one whose answers have no body.
        if (!written.subarray(0, 5).equals(bytes.subarray(0, 5))) return;
        faults.set(String(error).slice(0, 60), `${show(bytes)} → ${error}`);
      }
    });
    await fc.check(property, { numRuns: count, seed });
    t.comment(JSON.stringify([...statuses]));
    console.error(`almost HTTP: ${count} tries (seed ${seed}), ${faults.size} kinds of finding`);
    t.strictSame([...faults].slice(0, 10), [], `${count} tries with seed ${seed}`);
    t.equal((await app.call('/v1/environments/acme')).status, 200);
    const errors = app.log.filter(line => Number(line['level']) >= 50);
    t.strictSame(errors.slice(0, 3), [], 'no log line at error level');
  },
);

/** Returns the request id that the caller sent, as the log shows it beside the service's own. */
function callerIdOf({ headers }: { headers: Readonly<Record<string, string>> }): unknown {
  const line = app.log.findLast(({ requestId }) => requestId === headers['x-request-id']);
  return line?.['callerRequestId'];
}

t.test('answers pipelined requests in order', async () => {
  const sequence = fc.array(fc.tuple(fc.constantFrom(...good), fc.boolean()), {
    minLength: 2,
    maxLength: 12,
  });
  await fc.assert(
    fc.asyncProperty(sequence, fc.integer({ min: 1, max: 700 }), async (requests, pieceBytes) => {
      const text = requests
        .map(([request, isChunked], index) =>
          write(request, `id-${index}`, { isChunked, isLast: index === requests.length - 1 }),
        )
        .join('');
      const pieces = Array.from({ length: Math.ceil(text.length / pieceBytes) }, (_, index) =>
        text.slice(index * pieceBytes, (index + 1) * pieceBytes),
      );
      const { answers, closed } = await exchange(app.port, pieces, {
        methods: requests.map(([{ method }]) => method),
      });
      const isRight =
        closed === 'end' &&
        answers.length === requests.length &&
        requests.every(([request], index) => {
          const answer = answers[index];
          return (
            answer !== undefined &&
            // Probes are not logged.
            (request.path.startsWith('/health') || callerIdOf(answer) === `id-${index}`) &&
            answer.status === request.status
          );
        });
      const got = answers.map(answer => `${callerIdOf(answer)} ${answer.status}`);
      if (!isRight) throw new Error(`${closed}: ${got}`);
    }),
    { numRuns: scaled(400), seed },
  );
});
