import { once } from 'node:events';
import net, { type AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import type { Destination } from '../../../src/destinations/destination.ts';
import {
  type ClientTimeouts,
  createS3Client,
  runTimeouts,
} from '../../../src/destinations/s3/client.ts';
import { isTransient, StorageError } from '../../../src/destinations/s3/errors.ts';
import { type UploadRequest, uploadObject } from '../../../src/destinations/s3/upload.ts';
import { parseEndpointAllowlist } from '../../../src/outbound/endpoint-allowlist.ts';
import { contentsOf, needsS3, readObject, s3Destination, s3Server } from '../../helpers/s3.ts';
import { scaled } from '../../helpers/scale.ts';
import { type Answer, createDocument, errorDocument, fakeEndpoint } from './fake-endpoint.ts';
import { bytes, digestOf, mebibyte, uploadRequest } from './test-source.ts';

const part = 8 * mebibyte;
/** Size of an object with two parts. */
const whole = part + 64 * 1024;
const completeDocument =
  '<?xml version="1.0"?><CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>';

interface Steps {
  readonly create: Answer;
  readonly part: Answer;
  readonly complete: Answer;
  readonly abort: Answer;
}

/** Returns an S3 that accepts uploads and stores nothing. Each step can be replaced. */
function forgetful(steps: Partial<Steps> = {}): Answer {
  const all: Steps = {
    create: (_, response) => response.end(createDocument('u1')),
    part: (request, response) => request.once('end', () => response.setHeader('etag', '"e"').end()),
    complete: (_, response) => response.end(completeDocument),
    abort: (_, response) => response.writeHead(204).end(),
    ...steps,
  };
  return (request, response) => {
    const url = request.url ?? '';
    const step =
      request.method === 'PUT'
        ? 'part'
        : request.method === 'DELETE'
          ? 'abort'
          : url.includes('uploads=')
            ? 'create'
            : 'complete';
    all[step](request, response);
  };
}

const refuse =
  (status: number, code: string): Answer =>
  (_, response) =>
    response.writeHead(status).end(errorDocument(code));

async function upload(
  t: Test,
  destination: Destination,
  overrides: Partial<UploadRequest> = {},
  timeouts: Partial<ClientTimeouts> = {},
): Promise<unknown> {
  const credentials = { accessKeyId: 'AKIATEST', secretAccessKey: 'not-a-real-secret' };
  const allowlist = parseEndpointAllowlist(['127.0.0.1']);
  const client = createS3Client(
    destination,
    credentials,
    { allowlist },
    { ...runTimeouts, ...timeouts },
  );
  t.teardown(() => client.destroy());
  return await uploadObject(client, uploadRequest(destination, whole, overrides)).catch(
    (error: unknown) => error,
  );
}

function codeOf(thrown: unknown): string {
  return thrown instanceof StorageError ? thrown.details.code : `not a StorageError: ${thrown}`;
}

/** Returns the number of requests with the method. */
const count = (requests: string[], method: string) =>
  requests.filter(line => line.startsWith(method)).length;

t.test('reports the storage error of each upload step and aborts the upload', async t => {
  const html: Answer = (_, response) => response.end('<html><body>Welcome</body></html>');
  const early: Answer = (request, response) => {
    request.pause();
    response.setHeader('etag', '"e"').end();
  };
  const table: [string, Partial<Steps>, string, number][] = [
    ['create denied', { create: refuse(403, 'AccessDenied') }, 'write_denied', 0],
    ['create answered with a web page', { create: html }, 'not_s3', 0],
    ['part denied', { part: refuse(403, 'AccessDenied') }, 'write_denied', 1],
    ['part answered with a web page', { part: html }, 'not_s3', 1],
    ['part answered before its end', { part: early }, 'not_s3', 1],
    ['parts unavailable', { part: refuse(503, 'SlowDown') }, 'storage_unavailable', 1],
    ['complete refused', { complete: refuse(400, 'InvalidPart') }, 'unknown', 1],
    ['complete unavailable', { complete: refuse(500, 'InternalError') }, 'storage_unavailable', 1],
    ['complete answered with a web page', { complete: html }, 'not_s3', 1],
    [
      '200 with an error document',
      { complete: (_, response) => response.end(errorDocument('InternalError')) },
      'storage_unavailable',
      1,
    ],
    [
      'failed abort',
      { part: refuse(403, 'AccessDenied'), abort: refuse(500, 'InternalError') },
      'write_denied',
      3,
    ],
  ];
  for (const [title, steps, code, aborts] of table) {
    const endpoint = await fakeEndpoint(forgetful(steps));
    t.equal(codeOf(await upload(t, endpoint.destination)), code, title);
    t.equal(count(endpoint.requests, 'DELETE'), aborts, `${title}: the upload is aborted`);
    await endpoint.close();
  }
});

t.test('rejects an ETag that cannot be sent back', async t => {
  const header =
    (line: string): Answer =>
    (request, response) =>
      request.once('end', () =>
        response.socket?.end(`HTTP/1.1 200 OK\r\n${line}content-length: 0\r\n\r\n`, 'latin1'),
      );
  const document =
    (etag: string): Answer =>
    (_, response) =>
      response.end(`<CompleteMultipartUploadResult>${etag}</CompleteMultipartUploadResult>`);
  const headers = {
    'no ETag': '',
    'an ETag with NUL': 'etag: "a\0b"\r\n',
    'an ETag with a tab': 'etag: "a\tb"\r\n',
    'an ETag that is not ASCII': 'etag: "é"\r\n',
    'a long ETag': `etag: "${'e'.repeat(300)}"\r\n`,
    'an ETag of 1 MB': `etag: "${'e'.repeat(1_000_000)}"\r\n`,
  };
  const documents = {
    'no ETag': '',
    'an ETag with NUL': '<ETag>a&#0;b</ETag>',
    'an ETag with a line break': '<ETag>a&#10;b</ETag>',
    'an ETag of 1 MB': `<ETag>${'e'.repeat(1_000_000)}</ETag>`,
  };
  const small = () => ({ body: bytes(100), expectedSizeBytes: 100 });
  for (const [name, part] of Object.entries(headers).map(
    ([name, line]) => [name, header(line)] as const,
  )) {
    const endpoint = await fakeEndpoint(forgetful({ part }));
    const once = { maxAttempts: 1 };
    t.equal(codeOf(await upload(t, endpoint.destination, small(), once)), 'not_s3', name);
    if (name === 'no ETag' || name === 'a long ETag') {
      const thrown = await upload(t, endpoint.destination, {}, once);
      t.equal(codeOf(thrown), 'not_s3', `part: ${name}`);
      t.equal(count(endpoint.requests, 'DELETE'), 1, `${name}: the upload is aborted`);
    }
    await endpoint.close();
  }
  for (const [name, etag] of Object.entries(documents)) {
    const endpoint = await fakeEndpoint(forgetful({ complete: document(etag) }));
    t.equal(codeOf(await upload(t, endpoint.destination)), 'not_s3', `complete: ${name}`);
    await endpoint.close();
  }
});

t.test('succeeds when a part is answered with SlowDown twice', async t => {
  let refusals = 2;
  const slow: Answer = (request, response) => {
    refusals -= 1;
    (refusals >= 0 ? refuse(503, 'SlowDown') : (forgetful() as Answer))(request, response);
  };
  const endpoint = await fakeEndpoint(forgetful({ part: slow }));
  t.strictSame(await upload(t, endpoint.destination), await digestOf(whole));
  t.equal(count(endpoint.requests, 'PUT'), 4, 'two parts and two repetitions');
  await endpoint.close();
});

t.test('fails at once when a part is refused while the source is idle', async t => {
  const endpoint = await fakeEndpoint(forgetful({ part: refuse(403, 'AccessDenied') }));
  const body = bytes(2 * part, offset => (offset > whole ? new Promise(() => {}) : undefined));
  t.equal(codeOf(await upload(t, endpoint.destination, { body })), 'write_denied');
  t.equal(count(endpoint.requests, 'DELETE'), 1);
  await endpoint.close();
});

t.test('limits the parts in flight and in memory', async t => {
  let inFlight = 0;
  let mostInFlight = 0;
  let taken = 0;
  let mostWaiting = 0;
  const sizes = new Set<string | undefined>();
  const endpoint = await fakeEndpoint(
    forgetful({
      part: (request, response) => {
        inFlight += 1;
        sizes.add(request.headers['content-length']);
        mostInFlight = Math.max(mostInFlight, inFlight);
        request.once('end', () => {
          inFlight -= 1;
          taken += 1;
          response.setHeader('etag', '"e"').end();
        });
      },
    }),
  );
  const body = bytes(7 * part, offset => {
    mostWaiting = Math.max(mostWaiting, offset - taken * part);
  });
  t.strictSame(await upload(t, endpoint.destination, { body }), await digestOf(7 * part));
  t.equal(taken, 7);
  t.strictSame([...sizes], [`${part}`]);
  t.ok(mostInFlight > 1 && mostInFlight <= 4, `${mostInFlight} parts in flight`);
  t.ok(
    mostWaiting <= 6 * part,
    `${mostWaiting / mebibyte} MiB read from the source and not yet uploaded`,
  );
  await endpoint.close();
});

t.test(
  'returns the outcome of the last request when it is aborted during that request',
  async t => {
    for (const [step, size] of [
      ['complete', whole],
      ['part', 1_000],
    ] as const) {
      const controller = new AbortController();
      const last: Answer = (request, response) => {
        controller.abort(new Error('too late'));
        forgetful()(request, response);
      };
      const endpoint = await fakeEndpoint(forgetful({ [step]: last }));
      const uploaded = await upload(t, endpoint.destination, {
        body: bytes(size),
        signal: controller.signal,
      });
      t.strictSame(uploaded, await digestOf(size));
      t.equal(count(endpoint.requests, 'DELETE'), 0);
      await endpoint.close();
    }
  },
);

t.test('times out when the server stops answering', async t => {
  const silent: Answer = () => {};
  const timeouts = {
    maxAttempts: 2,
    // The other steps must end within these limits, also on a busy machine.
    answerMs: 1_000,
    completeMs: 1_000,
    minBytesPerSecond: 64 * mebibyte,
  };
  for (const [step, code] of [
    ['create', 'timeout'],
    ['part', 'timeout'],
    ['complete', 'timeout'],
  ] as const) {
    const endpoint = await fakeEndpoint(forgetful({ [step]: silent }));
    t.equal(codeOf(await upload(t, endpoint.destination, {}, timeouts)), code, step);
    t.equal(count(endpoint.requests, 'DELETE'), step === 'create' ? 0 : 1);
    await endpoint.close();
  }
});

/** Starts a TCP proxy before the real server. `act` returns false to withhold the bytes. */
async function proxy(act: (sent: number, client: net.Socket, server: net.Socket) => boolean) {
  const { port } = new URL(s3Server().endpoint);
  const sockets = new Set<net.Socket>();
  const listener = net.createServer(client => {
    const server = net.connect(Number(port), '127.0.0.1');
    let sent = 0;
    for (const socket of [client, server]) {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.once('close', () => sockets.delete(socket));
    }
    client.on('data', chunk => {
      sent += chunk.length;
      if (act(sent, client, server)) server.write(chunk);
    });
    server.pipe(client);
    client.once('close', () => server.destroy());
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  return {
    endpoint: `http://127.0.0.1:${(listener.address() as AddressInfo).port}`,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      listener.close();
      await once(listener, 'close');
    },
  };
}

t.test(
  'writes a complete object or none when connections reset, close or stall',
  needsS3,
  async t => {
    const faults: Record<string, (client: net.Socket, server: net.Socket) => boolean> = {
      reset: client => {
        client.resetAndDestroy();
        return false;
      },
      cut: (_client, server) => {
        server.end();
        return false;
      },
      stall: () => false,
    };
    const expected = await digestOf(whole);
    const rounds = scaled(10, 1);
    let failures = 0;
    for (const [name, fault] of Object.entries(faults)) {
      for (let round = 0; round < rounds; round += 1) {
        const breakAt = Math.floor(Math.random() * part);
        let left = 1 + Math.floor(Math.random() * 6);
        const broken = new WeakSet<net.Socket>();
        const between = await proxy((sent, client, server) => {
          if (broken.has(client)) return fault(client, server);
          if (sent <= breakAt || left === 0) return true;
          left -= 1;
          broken.add(client);
          return fault(client, server);
        });
        const destination = s3Destination();
        const client = createS3Client(
          { ...destination, endpoint: between.endpoint },
          s3Server().users.full,
          { allowlist: parseEndpointAllowlist(['127.0.0.1']) },
          { ...runTimeouts, answerMs: 500, completeMs: 500, minBytesPerSecond: 16 * mebibyte },
        );
        const started: string[] = [];
        const request = uploadRequest(destination, whole, {
          onMultipartStarted: async id => void started.push(id),
        });
        const outcome = await uploadObject(client, request).catch((error: unknown) => error);
        client.destroy();
        await between.close();
        const { objects } = await contentsOf(destination);
        const title = `${name} after ${breakAt} bytes`;
        if (outcome instanceof Error) {
          failures += 1;
          t.ok(
            outcome instanceof StorageError && isTransient(outcome.details.code),
            `${title}: ${outcome.message}`,
          );
        } else {
          t.strictSame(outcome, expected, title);
          t.strictSame(objects, [request.key]);
        }
        for (const key of objects) {
          t.equal(
            (await readObject(destination.bucket, key)).body.length,
            expected.bytes,
            `${title}: whole`,
          );
        }
      }
    }
    t.comment(`${failures} of ${3 * rounds} uploads failed; repeated requests saved the others`);
  },
);
