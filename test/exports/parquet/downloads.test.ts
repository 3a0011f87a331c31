import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { convertToParquet } from '../../../src/exports/parquet/convert-export.ts';
import { convertInWorker } from '../../../src/exports/parquet/convert-in-worker.ts';
import { adoptionRow, exportHeader, exportLine, ingestBody } from '../../helpers/adoption-rows.ts';
import { startTestApp } from '../../helpers/app.ts';
import { ask, open } from '../../helpers/http-client.ts';
import { longestBlockMs } from '../../helpers/longest-block.ts';
import { comparableRows, readParquet, withoutDuckDb } from '../../helpers/read-parquet.ts';
import { renderAll } from '../../helpers/render-snapshots.ts';
import { registerSecret, testAdminToken } from '../../helpers/secrets.ts';
import { waitFor } from '../../helpers/wait-for.ts';
import { writeWideSnapshot } from '../../helpers/wide-snapshot.ts';

t.setTimeout(600_000);

const app = await startTestApp(t);
const { parquetPlaces, downloadLimit } = app.dependencies;
const rows = [
  adoptionRow({
    companyId: 'c1',
    companyName: 'Acme, "Inc."\nline',
    lastUsed: '2026-02-28T12:30:00.120Z',
    segmentNames: ['All', 'Paying, EU', 'says "hi"', 'two\nlines', ''],
    segmentIds: ['s1', 's2', 's3', 's4', 's5'],
  }),
  adoptionRow({ companyId: 'c2', companyName: null, satisfaction: 4, feedbackCount: 7 }),
  adoptionRow({ companyId: 'c2', featureId: 'f2', companyName: '' }),
];
await app.putEnvironment('acme', 'pro');
await app.putEnvironment('empty', 'pro');
await app.putEnvironment('free', 'free');
await app.ingest('acme', '2026-02-27', ingestBody(rows.slice(1)));
await app.ingest('acme', '2026-03-01', ingestBody(rows));

const pathOf = (aggregation = 'today', environment = 'acme') =>
  `/v1/environments/${environment}/exports/${aggregation}.parquet`;
/** All places are free: an answer may be complete before its place is returned. */
const allFree = () =>
  waitFor(
    'the end of all downloads',
    () => parquetPlaces.taken === 0 && downloadLimit.active === 0,
  );
t.afterEach(allFree);

async function download(aggregation?: string, environment?: string) {
  await allFree();
  return await app.call(pathOf(aggregation, environment));
}

let kept: ReturnType<typeof download> | null = null;
/** Downloads the file of `acme` once. Each conversion starts a thread. */
function keptDownload() {
  kept ??= download();
  return kept;
}

t.test('sends the rows of the CSV', { skip: withoutDuckDb }, async t => {
  // `today` and the weekly file show snapshots under other dates than their own.
  for (const aggregation of ['today', '30-days-daily', '3-months-weekly']) {
    const { body, headers } = await (aggregation === 'today'
      ? keptDownload()
      : download(aggregation));
    const csv = (await app.download('acme', aggregation)).text;
    const found = await readParquet(t, body);
    t.strictSame(found.rows, comparableRows(csv), aggregation);
    t.equal(headers['x-total-rows'], String(found.rows.length));
    await renderAll(app);
  }
});

t.test('sends a file without rows for an environment without data', async t => {
  const { status, body, headers } = await download('today', 'empty');
  t.equal(status, 200);
  t.equal(headers['x-total-rows'], '0');
  if (withoutDuckDb === false) t.strictSame((await readParquet(t, body)).rows, []);
});

t.test('answers with the headers of the file, and has no ranges', async t => {
  const { headers, body, status } = await app.call(pathOf(), { headers: { range: 'bytes=0-3' } });
  t.equal(status, 200);
  t.match(headers, {
    'content-type': 'application/vnd.apache.parquet',
    'content-disposition': 'attachment; filename="acme_today_2026-03-02.parquet"',
    'cache-control': 'private, no-cache',
    'x-total-rows': '3',
    etag: /^"[0-9a-f]{64}-parquet"$/,
  });
  for (const absent of ['content-length', 'accept-ranges', 'vary', 'content-encoding'])
    t.notOk(absent in headers, absent);
  await allFree();
  const head = await app.call(pathOf(), { method: 'HEAD' });
  const { date: _d, 'x-request-id': _r, 'transfer-encoding': _t, ...same } = headers;
  t.match(head.headers, same);
  t.equal(head.body.length, 0);
  const again = await keptDownload();
  t.ok(again.body.equals(body), 'the same bytes');
  t.equal(again.headers.etag, headers.etag);
  t.not(
    (await app.download('acme', 'today')).headers.etag?.slice(0, 65),
    headers.etag?.slice(0, 65),
  );
});

t.test('answers conditional requests for Parquet files', async t => {
  const { etag = '' } = (await keptDownload()).headers;
  const get = (headers: Record<string, string>) => app.call(pathOf(), { headers });
  t.equal((await get({ 'if-none-match': etag })).status, 304);
  t.equal((await get({ 'if-match': '"other"' })).status, 412);
});

t.test('refuses callers and dates as for CSV', async t => {
  t.equal((await app.call(pathOf('today', 'free'))).json.code, 'plan_upgrade_required');
  t.equal((await app.call(pathOf('today', 'none'))).json.code, 'not_found');
  t.equal((await app.call(pathOf('tomorrow'))).json.code, 'validation_failed');
  t.equal((await app.call(`${pathOf()}?asOf=2026-03-03`)).json.code, 'validation_failed');
  t.equal((await app.call(pathOf(), { token: null })).json.code, 'unauthenticated');
});

t.test('limits Parquet files at once, and still answers requests without a file', async t => {
  const { etag = '' } = (await keptDownload()).headers;
  await allFree();
  for (const holders of [['acme'], ['one', 'two']]) {
    const places = holders.map(holder => parquetPlaces.takeForDownload(holder));
    const refused = await app.call(pathOf());
    t.equal(refused.status, 429);
    t.equal(refused.json.code, 'too_many_downloads');
    t.equal(refused.headers['retry-after'], '5');
    t.equal((await app.call(pathOf(), { method: 'HEAD' })).status, 200);
    const cached = await app.call(pathOf(), { headers: { 'if-none-match': etag } });
    t.equal(cached.status, 304);
    for (const place of places) place.release();
  }
});

t.test('sends a Parquet file by link', async t => {
  await allFree();
  const makeLink = (json: object) =>
    app.call('/v1/environments/acme/download-links', { method: 'POST', json });
  const answer = await makeLink({ aggregation: 'today', format: 'parquet' });
  t.match(answer.json, { rowCount: 3, sizeBytes: null });
  registerSecret(answer.json.url.split('/').at(-1));
  const { headers, body } = await ask(answer.json.url);
  t.equal(headers['content-type'], 'application/vnd.apache.parquet');
  t.ok(body.equals((await keptDownload()).body));

  const refused = await makeLink({ aggregation: 'today', format: 'parquet', compression: 'gzip' });
  t.equal(refused.status, 400);
  t.equal(refused.json.errors[0].path, '/compression');
  t.equal((await makeLink({ aggregation: 'today', format: 'arrow' })).status, 400);
});

t.test('writes the format to the audit log', async () => {
  await keptDownload();
  const { json } = await app.call('/v1/environments/acme/download-links', {
    method: 'POST',
    json: { aggregation: 'today', format: 'parquet' },
  });
  registerSecret(json.url.split('/').at(-1));
  await waitFor('both audit entries', async () => {
    const { rows: lines } = await app.database.pool.query(
      `select details->>'format' as format from audit_log
       where action in ('export.downloaded', 'download_link.created') and details->>'format' = 'parquet'
       group by action, 1`,
    );
    return lines.length === 2;
  });
});

t.test('ends a download after the first bytes', async t => {
  const { pool } = app.database;
  await app.putEnvironment('large', 'pro');
  // Each row group has few rows, so most of the file follows the first bytes.
  const large = { environmentId: 'large', date: '2026-03-02', rows: 40, nameBytes: 300_000 };
  await writeWideSnapshot(pool, large);
  await renderAll(app);
  const loggedBefore = app.log.length;
  const isFailureLogged = () =>
    app.log.slice(loggedBefore).some(({ msg }) => msg === 'download failed');

  await t.test('frees the place and the worker when the reader disconnects', async t => {
    await allFree();
    const headers = { authorization: `Bearer ${testAdminToken}` };
    const response = await open(app.origin + pathOf('today', 'large'), { headers });
    response.on('error', () => {});
    t.equal(parquetPlaces.taken, 1);
    response.destroy();
    await allFree();
    t.notOk(isFailureLogged());
  });

  await t.test('resets the connection when a chunk is lost', async t => {
    await pool.query(
      `delete from snapshot_chunks where environment_id = 'large'
       and index = (select max(index) from snapshot_chunks where environment_id = 'large')`,
    );
    await t.rejects(app.call(pathOf('today', 'large')), { code: 'ECONNRESET' });
    await allFree();
    t.ok(isFailureLogged());
  });
});

t.test('converts in a worker thread', async t => {
  t.setTimeout(600_000);

  const lines = Array.from({ length: 1_000 }, (_, index) =>
    exportLine(
      adoptionRow({ companyId: `company-${index}`, companyName: `Name ${index}` }),
      '2026-03-02',
    ),
  );
  const rows = Buffer.from(lines.join(''));

  /** CSV that counts the pieces that were read and notes its end. */
  function source(pieces: number) {
    const state = { read: 0, isClosed: false };
    async function* read(): AsyncGenerator<Buffer> {
      try {
        yield Buffer.from(exportHeader);
        for (; state.read < pieces; ) {
          state.read += 1;
          yield rows;
        }
      } finally {
        state.isClosed = true;
      }
    }
    return { state, csv: read() };
  }

  async function collect(bytes: AsyncIterable<Buffer>): Promise<Buffer> {
    const pieces: Buffer[] = [];
    for await (const piece of bytes) pieces.push(piece);
    return Buffer.concat(pieces);
  }

  const never = new AbortController().signal;

  t.test('leaves the event loop free', async t => {
    let file: Buffer = Buffer.alloc(0);
    const longest = await longestBlockMs(async () => {
      file = await collect(convertInWorker(source(6).csv, 6_000, never));
    });
    // One row group in this thread would take longer.
    t.ok(longest < 50, `blocked for ${longest} ms`);
    t.equal(file.subarray(0, 4).toString(), 'PAR1');
    t.equal(file.subarray(-4).toString(), 'PAR1');
  });

  t.test('reads at most two pieces ahead of its reader', async t => {
    const { state, csv } = source(1_000);
    const bytes = convertInWorker(csv, 1_000_000, never);
    await bytes.next();
    const read = state.read;
    t.ok(read <= 5 + 2, `one row group has 5 pieces, ${read} were read`);
    await delay(200);
    t.equal(state.read, read, 'nothing is read while the reader is busy');
    await bytes.return(undefined);
    t.ok(state.isClosed);
  });

  t.test('ends with the reason of the abort', async t => {
    const { state, csv } = source(Number.POSITIVE_INFINITY);
    const controller = new AbortController();
    const bytes = convertInWorker(csv, 0, controller.signal);
    await bytes.next();
    const next = (async () => {
      for await (const _ of bytes);
    })();
    controller.abort(new Error('enough'));
    await t.rejects(next, { message: 'enough' });
    t.ok(state.isClosed, 'the CSV is closed');
    await t.rejects(collect(convertInWorker(source(1).csv, 1_000, controller.signal)), {
      message: 'enough',
    });
  });

  t.test('fails with the error of the source, of the CSV and of the row count', async t => {
    async function* broken(): AsyncGenerator<Buffer> {
      yield Buffer.from(exportHeader);
      throw new Error('chunk lost');
    }
    async function* malformed(): AsyncGenerator<Buffer> {
      yield Buffer.from(`${exportHeader}a,b\n`);
      yield rows;
    }
    const cases: [AsyncGenerator<Buffer>, RegExp][] = [
      [broken(), /chunk lost/],
      [malformed(), /2 fields instead of 18/],
      [source(1).csv, /expected 999, read 1000/],
    ];
    for (const [csv, expected] of cases)
      await t.rejects(collect(convertInWorker(csv, 999, never)), expected);
  });

  t.test('forgets its place at the end', async t => {
    const controller = new AbortController();
    let released = 0;
    const release = () => {
      released += 1;
    };
    const place = { signal: never, release };
    const csv = { rowCount: 1_000, bytes: () => source(1).csv, close: () => {} };
    await collect(convertToParquet(csv, () => place, controller.signal));
    t.equal(released, 1);
    controller.abort();
    t.equal(released, 1, 'no listener is left');
  });
});
