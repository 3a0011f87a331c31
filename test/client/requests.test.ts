import { buffer } from 'node:stream/consumers';
import { ApiError, createClient } from '@warehouse-export/client';
import t from 'tap';

/** The client against answers that a real service gives rarely. */

type Fetch = typeof fetch;
const connect = (fetch: Fetch) =>
  createClient({ baseUrl: 'https://export.example.com', token: 'token', fetch });

async function errorOf(promise: Promise<unknown>): Promise<ApiError> {
  const error = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (error instanceof ApiError) return error;
  throw new Error(`Expected an ApiError, got ${error}`);
}

t.test('names CORS_ORIGINS if a page of another origin gets no answer', async t => {
  const client = connect(async () => {
    throw new TypeError('Failed to fetch');
  });
  const list = () => errorOf(client.api.listExports({ path: { environmentId: 'acme' } }));
  const { message } = await list();
  t.match(message, /https:\/\/export\.example\.com does not answer \(Failed to fetch\)$/);
  t.teardown(() => Reflect.deleteProperty(globalThis, 'location'));
  for (const [page, isNamed] of [
    ['https://app.example.com', true],
    ['https://export.example.com', false],
  ] as const) {
    Object.defineProperty(globalThis, 'location', {
      value: new URL(`${page}/settings`),
      configurable: true,
    });
    const { message, problem } = await list();
    t.equal(problem.code, 'no_answer');
    t.equal(message.includes(`CORS_ORIGINS must contain ${page}`), isNamed, message);
  }
});

t.test('refuses a missing path parameter before it sends a request', async t => {
  const client = connect(async () => t.fail('no request is sent') as never);
  const wrong = {} as never;
  const file = { aggregation: 'today', environmentId: '' } as const;
  const upload = { environmentId: 'acme', date: undefined as never, body: 'csv' };
  const calls: [string, () => Promise<unknown>][] = [
    ['runId', () => client.api.getRun({ path: { environmentId: 'acme', runId: wrong['runId'] } })],
    ['environmentId', () => client.api.listExports(wrong)],
    ['environmentId', () => client.iterate('listRuns', { path: wrong }).next()],
    ['environmentId', () => client.downloadExport(file)],
    ['date', () => client.uploadSnapshot(upload)],
  ];
  for (const [name, call] of calls) {
    await t.rejects(call, new TypeError(`The path parameter ${name} is missing`));
  }
});

t.test('does not repeat the errors of fields in the message', async t => {
  const problem = {
    ...{ code: 'validation_failed', detail: '/name is required', requestId: 'r1' },
    errors: [{ path: '/name', message: 'is required' }],
  };
  const client = connect(async () => Response.json(problem, { status: 400 }));
  const error = await errorOf(client.api.listExports({ path: { environmentId: 'acme' } }));
  t.equal(
    error.message,
    'GET /v1/environments/acme/exports: 400 validation_failed. /name is required',
  );
});

t.test('completes a download whose connection breaks after the last byte', async t => {
  const bytes = new TextEncoder().encode('a\n1\n');
  const headers = { etag: '"1"', 'x-total-rows': '1' };
  const ranges: (string | null)[] = [];
  const answers = [
    // The service does not know the length, so the client cannot know that nothing is missing.
    () => new Response(brokenAfter(bytes), { headers }),
    () => Response.json({ code: 'range_not_satisfiable', detail: '' }, { status: 416 }),
    () =>
      new Response('\n', { status: 206, headers: { ...headers, 'content-range': 'bytes 3-3/4' } }),
  ];
  const client = connect(async (_url, init) => {
    ranges.push(new Headers(init?.headers).get('range'));
    return answers.shift()?.() ?? Response.error();
  });
  const { body } = await client.downloadExport({ environmentId: 'acme', aggregation: 'today' });
  t.same(new Uint8Array(await buffer(body)), bytes);
  t.same(ranges, ['bytes=0-', 'bytes=4-', 'bytes=3-']);
});

function brokenAfter(bytes: Uint8Array): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start: controller => controller.enqueue(bytes),
    pull: controller => controller.error(new TypeError('terminated')),
  });
}
