import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import {
  ApiError,
  type Client,
  createClient,
  retryWhenBusy,
  verifyWebhook,
  WebhookVerificationError,
} from '@warehouse-export/client';
import t, { type Test } from 'tap';
import { freePort } from '../../dev/free-port.ts';
import { makeWebhookSecret, signatureHeaders } from '../../src/webhooks/signature.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { testNow } from '../helpers/app.ts';
import { writeDenseSnapshot } from '../helpers/dense-snapshot.ts';
import { credentialsOf, startExportApp, startExportWorker } from '../helpers/export-configs.ts';
import { startProgram } from '../helpers/programs.ts';
import { renderAll } from '../helpers/render-snapshots.ts';
import { freshPrefix, needsS3, s3Server } from '../helpers/s3.ts';
import { registerSecret, testAdminToken } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';

const app = await startExportApp(t);
await app.putEnvironment('acme');
const path = { environmentId: 'acme' };
const connect = (options: Partial<Parameters<typeof createClient>[0]> = {}): Client =>
  createClient({ baseUrl: app.origin, token: testAdminToken, ...options });
const client = connect();

/** Returns the problem with which a promise rejects. */
async function problemOf(promise: Promise<unknown>) {
  const error = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (!(error instanceof ApiError)) throw new Error(`Expected an ApiError, got ${error}`);
  return { ...error.problem, message: error.message, retryAfter: error.retryAfterSeconds };
}

t.test('returns bodies and throws problems by code', async t => {
  const environment = await client.api.getEnvironment({ path });
  t.equal(environment.plan, 'enterprise');
  t.match(await problemOf(client.api.getEnvironment({ path: { environmentId: 'other' } })), {
    code: 'not_found',
    status: 404,
    requestId: /./,
    message: /^GET \/v1\/environments\/other: 404 not_found\. /,
  });
  t.match(await problemOf(client.api.putEnvironment({ path, body: { name: '', plan: 'free' } })), {
    code: 'validation_failed',
    errors: [{ path: 'name' }],
  });
  const stranger = connect({ token: async () => 'unknown-token' });
  t.match(await problemOf(stranger.api.listExports({ path })), { code: 'unauthenticated' });
});

t.test('reports a service that does not answer, or a foreign answer', async t => {
  const url = await serve(t, (_request, response) => response.writeHead(502).end('<html>'));
  const foreign = connect({ baseUrl: url });
  const expected = { code: 'unexpected_answer', status: 502, detail: '<html>', requestId: null };
  t.match(await problemOf(foreign.api.listExports({ path })), expected);
  t.match(await problemOf(download(foreign)), expected);
  const silent = connect({ baseUrl: await serve(t, request => request.socket.destroy()) });
  t.match(await problemOf(silent.api.listExports({ path })), {
    code: 'no_answer',
    status: null,
    message: /^GET \/v1\/.*: http:\/\/127\.0\.0\.1:\d+ does not answer/,
  });
  const aborted = AbortSignal.abort(new Error('changed my mind'));
  await t.rejects(client.api.listExports({ path, signal: aborted }), /changed my mind/);
});

t.test('yields the items of all pages', async t => {
  await app.putEnvironment('paged');
  const path = { environmentId: 'paged' };
  for (const name of ['one', 'two', 'three']) {
    await client.api.createApiKey({ path, body: { name, scopes: ['exports:read'] } });
  }
  const names: string[] = [];
  for await (const key of client.iterate('listApiKeys', { path, query: { limit: 2 } })) {
    names.push(key.name);
  }
  t.same(names.sort(), ['one', 'three', 'two']);
});

t.test('uploads a snapshot with its digest', async t => {
  const csv = ingestBody([adoptionRow(), adoptionRow({ companyId: 'c2' })]);
  const sent: (string | null)[] = [];
  const spy = connect({
    fetch: (input, init) => {
      sent.push(new Headers(init?.headers).get('content-digest'));
      return fetch(input, init);
    },
  });
  const upload = { environmentId: 'acme', date: '2026-02-27' };
  const digestOf = (bytes: string | Buffer) => createHash('sha256').update(bytes).digest();
  const header = `sha-256=:${digestOf(csv).toString('base64')}:`;
  const bodies = [csv, new TextEncoder().encode(csv), new Blob([csv])];
  for (const body of bodies) {
    t.match(await spy.uploadSnapshot({ ...upload, body, rowCount: 2 }), { rowCount: 2 });
  }
  t.same(sent, [header, header, header]);

  const zipped = gzipSync(csv);
  const stream = () => ({ body: Readable.from([zipped]), contentEncoding: 'gzip' as const });
  t.match(await spy.uploadSnapshot({ ...upload, ...stream() }), { rowCount: 2 });
  t.equal(sent.at(-1), null, 'a stream has no digest');
  const verified = { ...upload, ...stream(), sha256: digestOf(zipped) };
  t.match(await spy.uploadSnapshot(verified), { rowCount: 2 });

  const wrong = { ...upload, ...stream(), sha256: digestOf('other') };
  t.match(await problemOf(client.uploadSnapshot(wrong)), { code: 'digest_mismatch' });
  const one = { ...upload, body: ingestBody([adoptionRow()]), rowCount: 3 };
  t.match(await problemOf(client.uploadSnapshot(one)), {
    code: 'snapshot_invalid',
    errorCount: 1,
    errors: [{ row: 0, column: null, message: 'has 1 row where rowCount announces 3' }],
    message: /The first: the body: has 1 row where rowCount announces 3$/,
  });
});

const download = (from: Client, options = {}) =>
  from.downloadExport({ environmentId: 'acme', aggregation: 'today', ...options });

t.test('the client downloads exports', async t => {
  const rows = 2_000;
  const snapshot = { environmentId: 'acme', date: '2026-03-02', rows };
  const replace = (salt: string) => writeDenseSnapshot(app.database.pool, { ...snapshot, salt });
  const readWhole = async (extension: string) =>
    (await app.call(`/v1/environments/acme/exports/today.${extension}`)).body;

  await t.test(
    'the client downloads an unrendered snapshot from the start after a break',
    async t => {
      await replace('not rendered');
      const broken = breakAfter(200_000, 1);
      const file = await download(connect(broken));
      t.equal(file.totalBytes, null);
      t.ok((await buffer(file.body)).equals(await readWhole('csv')));
      t.equal(broken.requests.length, 2);
    },
  );

  await replace('rendered');
  await renderAll(app);

  for (const format of ['csv', 'csv.gz'] as const) {
    await t.test(`the client shows progress and resumes after each break: ${format}`, async t => {
      const whole = await readWhole(format);
      const step = Math.ceil(whole.length / 3.5);
      const broken = breakAfter(step, 3);
      const progress: number[] = [];
      const file = await download(connect(broken), {
        format,
        onProgress: (now: { receivedBytes: number; totalBytes: number | null }) => {
          t.equal(now.totalBytes, whole.length);
          progress.push(now.receivedBytes);
        },
      });
      t.match(file, { rowCount: rows, totalBytes: whole.length, startsAt: 0, missingDates: [] });
      t.equal(file.fileName, `acme_today_2026-03-02.${format}`);
      t.ok((await buffer(file.body)).equals(whole));
      t.equal(progress.at(-1), whole.length);
      t.same(
        progress,
        progress.toSorted((one, other) => one - other),
      );
      const ranges = broken.requests.map(headers => headers.get('range'));
      t.same(
        ranges,
        [0, 1, 2, 3].map(part => `bytes=${part * step}-`),
      );
      t.equal(broken.requests[1]?.get('if-range'), file.etag);
    });
  }

  await t.test('the client continues a download of another process', async t => {
    const whole = await readWhole('csv');
    const { etag, body } = await download(client);
    await body.cancel();
    const rest = await download(client, { resume: { etag, receivedBytes: 1000 } });
    t.equal(rest.startsAt, 1000);
    t.ok((await buffer(rest.body)).equals(whole.subarray(1000)));
    const other = await download(client, { resume: { etag: '"old"', receivedBytes: 1000 } });
    t.equal(other.startsAt, 0, 'another file starts again');
    t.ok((await buffer(other.body)).equals(whole));
    for (const format of ['csv', 'csv.gz', 'parquet'] as const) {
      const complete = await download(client, { format });
      const { length } = await buffer(complete.body);
      const none = await download(client, {
        ...{ format, resume: { etag: complete.etag, receivedBytes: length } },
      });
      const starts = format === 'parquet' ? 0 : length;
      t.equal(none.startsAt, starts, `${format}: nothing is left`);
      t.match(none, { rowCount: rows, etag: complete.etag, fileName: complete.fileName });
      t.equal((await buffer(none.body)).length, length - starts);
      const tooLong = { etag: complete.etag, receivedBytes: length + 1 };
      if (format !== 'parquet') {
        t.match(await problemOf(download(client, { format, resume: tooLong })), {
          code: 'range_not_satisfiable',
        });
      }
    }
  });

  await t.test('the client fails if the file is replaced during the download', async t => {
    const broken = breakAfter(200_000, 1, async () => {
      await replace('replaced');
      await renderAll(app);
    });
    const file = await download(connect(broken));
    t.match(await problemOf(buffer(file.body)), { code: 'export_changed' });
  });

  await t.test('the client fails after repeated breaks without a byte', async t => {
    const file = await download(connect(breakAfter(0, 9)), { attempts: 2 });
    t.match(await problemOf(buffer(file.body)), { code: 'incomplete_download' });
  });

  await t.test('the client fails if rows are missing or the gzip file is damaged', async t => {
    const url = await serve(t, ({ url = '' }, response) => {
      response.writeHead(200, { etag: '"1"', 'x-total-rows': '2' });
      response.end(url.endsWith('gz') ? 'not gzip' : 'a\n"\n"\n');
    });
    for (const format of ['csv', 'csv.gz'] as const) {
      const file = await download(connect({ baseUrl: url }), { format });
      t.match(await problemOf(buffer(file.body)), {
        code: 'incomplete_download',
        detail: format === 'csv' ? 'Expected 2 rows, got 1' : 'The file is not valid gzip',
      });
    }
  });

  await t.test('a download of the client ends when the caller aborts', async t => {
    const abort = new AbortController();
    const file = await download(client, { signal: abort.signal });
    const reader = file.body.getReader();
    await reader.read();
    abort.abort(new Error('enough'));
    await t.rejects(async () => {
      while (!(await reader.read()).done);
    }, /enough/);
  });
});

t.test('retries a busy service as Retry-After says', async t => {
  const answers = [
    { status: 429, code: 'rate_limited', after: '0' },
    { status: 503, code: 'unavailable', after: '0' },
  ];
  const url = await serve(t, (_request, response) => {
    const answer = answers.shift();
    response.writeHead(answer?.status ?? 200, {
      'content-type': 'application/json',
      ...(answer && { 'retry-after': answer.after }),
    });
    response.end(JSON.stringify(answer ? { code: answer.code, detail: '' } : { items: [] }));
  });
  const busy = connect({ baseUrl: url });
  const waits: string[] = [];
  const list = () => busy.api.listExports({ path });
  const onRetry = (error: ApiError, seconds: number) =>
    waits.push(`${error.problem.code} ${seconds}`);
  t.match(await retryWhenBusy(list, { onRetry }), { items: [] });
  t.same(waits, ['rate_limited 0', 'unavailable 0']);
  answers.push({ status: 429, code: 'rate_limited', after: '0' });
  answers.push({ status: 404, code: 'not_found', after: '0' });
  t.match(await problemOf(retryWhenBusy(list)), { code: 'not_found' }, 'other problems at once');
});

t.test('the client verifies the signatures of webhooks', async t => {
  const secret = registerSecret(makeWebhookSecret());
  const now = new Date('2026-03-02T10:00:00Z');
  const body = JSON.stringify({ type: 'webhook.test', timestamp: now.toISOString(), data: {} });
  const headers = signatureHeaders(secret, { id: 'msg_1', body }, now);
  const verify = (changes = {}) => verifyWebhook({ secret, headers, body, now, ...changes });

  t.equal((await verify()).type, 'webhook.test');
  t.equal((await verify({ headers: new Headers(headers) })).type, 'webhook.test');
  t.equal((await verify({ body: Buffer.from(body) })).type, 'webhook.test');
  const other = registerSecret(makeWebhookSecret());
  t.equal((await verify({ secret: [other, secret] })).type, 'webhook.test');

  const refused = {
    'another body': { body: `${body} ` },
    'another secret': { secret: other },
    'another id': { headers: { ...headers, 'webhook-id': 'msg_2' } },
    'a missing header': { headers: { ...headers, 'webhook-signature': undefined } },
    'a broken signature': { headers: { ...headers, 'webhook-signature': 'v1,§ v2,AAAA' } },
    'a broken time': { headers: { ...headers, 'webhook-timestamp': 'NaN' } },
    'an old message': { now: new Date(now.getTime() + 301_000) },
    'a message of the future': { now: new Date(now.getTime() - 301_000) },
  };
  for (const [name, changes] of Object.entries(refused)) {
    await t.rejects(verify(changes), WebhookVerificationError, name);
  }
  await t.rejects(verify({ secret: 'whsec_' }), TypeError, 'an unusable secret');
});

/** Returns a fetch whose first `times` answers break after some bytes. */
function breakAfter(bytes: number, times: number, onBreak = async () => {}) {
  const requests: Headers[] = [];
  const fetchBroken: typeof fetch = async (input, init) => {
    const answer = await fetch(input, init);
    requests.push(new Headers(init?.headers));
    if (requests.length > times || answer.body === null) return answer;
    let left = bytes;
    let isBroken = false;
    const cut = new TransformStream<Uint8Array, Uint8Array>({
      async transform(chunk, controller) {
        const part = chunk.subarray(0, left);
        left -= part.length;
        if (part.length > 0) controller.enqueue(part);
        if (left > 0 || isBroken) return;
        isBroken = true;
        await onBreak();
        // The reader has taken the part before the stream fails.
        setImmediate(() => controller.error(new TypeError('terminated')));
      },
    });
    return new Response(answer.body.pipeThrough(cut), answer);
  };
  return { fetch: fetchBroken, requests };
}

/** Starts an odd server. */
async function serve(t: Test, listener: http.RequestListener): Promise<string> {
  const server = http.createServer(listener).listen(0, '127.0.0.1');
  await new Promise(resolve => server.once('listening', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const tomorrow = () => new Date(Date.now() + 86_400_000);

/** Runs the programs of the client's README as a reader would. */
t.test('the client works as its README says', async t => {
  const root = join(import.meta.dirname, '../..');
  const readme = fs.readFileSync(join(root, 'packages/client/README.md'), 'utf8');
  const sections = new Map(
    [...readme.matchAll(/^## ([^\n]+)\n[^#]*?^```ts\n(.*?)^```$/gms)].map(
      ([, title = '', code = '']) => [title, code],
    ),
  );
  const setup = sections.get('Create a client') ?? '';
  sections.delete('Create a client');

  t.test('the programs in the README of the client work as written', needsS3, async t => {
    // Each program asks for the real date. The service is a day ahead, as the day may end.
    app.setNow(tomorrow().toISOString());
    t.teardown(() => app.setNow(testNow));
    startExportWorker(t, app);
    await app.putEnvironment('readme');
    const key = await app.makeKey('readme', ['exports:write', 'snapshots:write']);
    const { endpoint, bucket, region } = s3Server();
    const secret = registerSecret(makeWebhookSecret());
    const port = await freePort();
    const prefix = freshPrefix();
    const values = (keys = credentialsOf('full')): Readonly<Record<string, string>> => ({
      'https://export.example.com': app.origin,
      "'acme'": "'readme'",
      'whx_…': key.token,
      'https://storage.example.com': endpoint,
      'my-bucket': bucket,
      'eu-west-1': region,
      "'exports'": `'${prefix}'`,
      'my-access-key': keys.accessKeyId,
      'my-secret-key': keys.secretAccessKey,
      'whsec_…': secret,
      'listen(8080)': `listen(${port}, '127.0.0.1')`,
    });
    const folder = t.testdir();
    let count = 0;
    /** Writes the programs under some titles into one file. */
    const write = (titles: string[], keys?: ReturnType<typeof credentialsOf>): string => {
      let program = setup + titles.map(title => sections.get(title)).join('');
      for (const [placeholder, value] of Object.entries(values(keys))) {
        program = program.replaceAll(placeholder, value);
      }
      const file = join(folder, `program-${count++}.ts`);
      fs.writeFileSync(file, program);
      return file;
    };

    const titles = [...sections.keys()];
    t.equal(titles.length, 5, 'the five tasks');

    await t.test('the programs in the README of the client have no type errors', async t => {
      const files = titles.map(title => write([title]));
      const project = join(folder, 'tsconfig.json');
      const extended = join(root, 'tsconfig.json');
      fs.writeFileSync(project, JSON.stringify({ extends: extended, files, include: [] }));
      const tsc = join(root, 'node_modules/typescript/lib/tsc.js');
      const args = [tsc, '--noUnusedLocals', 'false', '--project', project];
      const { code, stdout } = await promisify(execFile)(process.execPath, args).then(
        result => ({ ...result, code: 0 }),
        (error: { code: number; stdout: string }) => error,
      );
      t.same({ code, stdout }, { code: 0, stdout: '' });
    });

    await t.test('the program in the README that saves a config explains an error', async t => {
      const wrong = { accessKeyId: 'WRONG', secretAccessKey: registerSecret('w'.repeat(40)) };
      const program = write(['Save an automatic export'], wrong);
      const { stdout } = await promisify(execFile)(process.execPath, [program]);
      t.match(stdout, /^The storage does not recognise the access key id\. Copy .+\n$/);
    });

    await t.test('the programs in the README of the client work one after the other', async t => {
      const program = startProgram(t, process.execPath, [write(titles)], { cwd: folder });
      const send = async (body: string, headers: Record<string, string>) =>
        (await fetch(`http://127.0.0.1:${port}`, { method: 'POST', body, headers })).status;
      const isReady = async () => {
        if (program.child.exitCode !== null) throw new Error(program.stderr());
        return await send('', {}).catch(() => null);
      };
      await waitFor('the receiver of webhooks', isReady, { limitMs: 90_000 });
      const output = program.stdout();
      t.match(output, /^Stored version \S+\. Rows: 1\n\d+ of /);
      const [, name = ''] =
        /^(readme_today_[\d-]+\.csv) is complete\. Rows: 1$/m.exec(output) ?? [];
      const { length } = fs.readFileSync(join(folder, name));
      t.match(output, new RegExp(`^${length} of (${length}|\\?) bytes$`, 'm'));
      t.match(output, /^Saved as \S+\. Next export: \S+T00:00:00.000Z$/m);
      t.match(
        output,
        /^Run of [\d-]+: successful\nNightly to our bucket: successful\n\S+ successful \S+\.csv\n/m,
      );

      const body = JSON.stringify({
        type: 'export.failed',
        timestamp: new Date().toISOString(),
        data: { configName: 'Nightly', error: { code: 'unknown', message: 'The bucket is gone.' } },
      });
      const headers = signatureHeaders(secret, { id: 'msg_1', body }, new Date());
      t.equal(await send(body, headers), 204);
      t.equal(await send(`${body} `, headers), 400);
      const text = { id: 'msg_2', body: 'text' };
      const fault = await send(text.body, signatureHeaders(secret, text, new Date()));
      t.equal(fault, 500, 'an error that the sender did not cause');
      await waitFor('the output of both messages', () =>
        /missing\nNightly The bucket is gone\.\n.*does not match.*\n.*JSON/.test(program.stdout()),
      );
    });
  });
});
