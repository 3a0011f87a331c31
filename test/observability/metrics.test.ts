import { gzipSync } from 'node:zlib';
import t from 'tap';
import { adoptionRow, exportHeader, ingestBody } from '../helpers/adoption-rows.ts';
import { startApp, startTestApp } from '../helpers/app.ts';
import { open } from '../helpers/http-client.ts';
import { connectRaw, eventually } from '../helpers/raw-http.ts';
import { difference, readMetrics } from '../helpers/read-metrics.ts';
import { renderAll } from '../helpers/render-snapshots.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { writeWideSnapshot } from '../helpers/wide-snapshot.ts';

const app = await startTestApp(t);
const { pool } = app.database;
for (const id of ['small', 'wide', 'broken']) await app.putEnvironment(id, 'pro');
await app.ingest(
  'small',
  '2026-03-01',
  ingestBody([adoptionRow(), adoptionRow({ companyId: 'c2' })]),
);
await writeWideSnapshot(pool, {
  environmentId: 'wide',
  date: '2026-03-01',
  rows: 2_000,
  nameBytes: 20_000,
});
// The route keeps its text for a second.
const scrape = async () => readMetrics(await app.dependencies.metrics.render());
const authorization = { authorization: `Bearer ${testAdminToken}` };
const idle = () =>
  eventually(() => app.dependencies.downloadLimit.active === 0, 'the end of the downloads');

t.test('counts a complete download, before and after rendering', async t => {
  for (const isRendered of [false, true]) {
    if (isRendered) await renderAll(app);
    const before = await scrape();
    const { body } = await app.download('small', 'today');
    await idle();
    const more = difference(before, await scrape());
    t.equal(more('whx_downloads_total{outcome="complete"}'), 1);
    t.equal(more('whx_download_rows_total'), 2);
    const bytes = more('whx_download_bytes_total');
    t.ok(
      bytes > body.length && bytes < body.length + 1_000,
      `the file of ${body.length} and headers: ${bytes}`,
    );
    t.equal(more('whx_download_duration_seconds_count{outcome="complete"}'), 1);
  }
});

t.test('counts a rendering and its bytes', async t => {
  await app.ingest('small', '2026-03-01', ingestBody([adoptionRow()]));
  const before = await scrape();
  await renderAll(app);
  await renderAll(app);
  const more = difference(before, await scrape());
  t.equal(more('whx_renderings_total{outcome="rendered"}'), 1);
  t.equal(more('whx_rendering_duration_seconds_count{outcome="rendered"}'), 1);
  const { body } = await app.download('small', 'today');
  t.equal(more('whx_rendered_bytes_total'), body.length - exportHeader.length);
  await app.ingest(
    'small',
    '2026-03-01',
    ingestBody([adoptionRow(), adoptionRow({ companyId: 'c2' })]),
  );
  t.equal((await scrape()).get('whx_renderings_waiting'), 1);
});

t.test('counts a download whose reader disconnects', async t => {
  const before = await scrape();
  const url = `${app.origin}/v1/environments/wide/exports/today.csv`;
  const response = await open(url, { headers: authorization });
  response.destroy();
  await idle();
  const more = difference(before, await scrape());
  t.equal(more('whx_downloads_total{outcome="reader_gone"}'), 1);
  t.equal(more('whx_download_rows_total'), 0);
});

t.test('counts downloads that fail before and after their first byte', async t => {
  const before = await scrape();
  await pool.query('alter table snapshots rename to hidden');
  t.equal((await app.download('small', 'today')).status, 503);
  await pool.query('alter table hidden rename to snapshots');

  await writeWideSnapshot(pool, {
    environmentId: 'broken',
    date: '2026-03-01',
    rows: 100,
    nameBytes: 20_000,
  });
  await pool.query(`update snapshots set row_count = 99 where environment_id = 'broken'`);
  await t.rejects(app.download('broken', 'today'), 'the connection breaks');
  await idle();
  t.equal(difference(before, await scrape())('whx_downloads_total{outcome="failed"}'), 2);
});

t.test('counts ingests by their outcome', async t => {
  const csv = ingestBody([adoptionRow(), adoptionRow({ companyId: 'c2' })]);
  const url = `${app.origin}/v1/environments/broken/snapshots/2026-02-01`;
  const cutOff = async () => {
    const connection = await connectRaw(app.port);
    connection.socket.write(
      `PUT ${new URL(url).pathname} HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n` +
        `Authorization: Bearer ${testAdminToken}\r\nContent-Length: 1000\r\n\r\n${csv.slice(0, 100)}`,
    );
    await eventually(() => app.dependencies.ingestLimit.active === 1, 'the start of the ingest');
    connection.socket.destroy();
  };
  for (const [outcome, act, rows] of [
    ['complete', () => app.ingest('broken', '2026-02-01', csv), 2],
    ['refused', () => app.ingest('broken', '2026-02-01', `${csv}bad\n`), 0],
    [
      'refused',
      () => app.ingest('broken', '2026-02-01', gzipSync(csv), { 'content-encoding': 'br' }),
      0,
    ],
    [
      'complete',
      () => app.ingest('broken', '2026-02-01', gzipSync(csv), { 'content-encoding': 'gzip' }),
      2,
    ],
    ['sender_gone', cutOff, 0],
  ] as const) {
    const before = await scrape();
    await act();
    await eventually(() => app.dependencies.ingestLimit.active === 0, 'the end of the ingest');
    const more = difference(before, await scrape());
    t.equal(more(`whx_ingests_total{outcome="${outcome}"}`), 1, outcome);
    t.equal(more('whx_ingest_rows_total'), rows, outcome);
    if (outcome === 'complete')
      t.equal(more('whx_ingest_bytes_total'), Buffer.byteLength(csv), 'unpacked');
  }
});

t.test('names no customer and has every series from the start', async t => {
  const { text } = await app.call('/metrics', { token: null });
  t.notMatch(text, /small|wide|broken/);
  for (const outcome of ['complete', 'reader_gone', 'stalled', 'failed']) {
    t.match(text, new RegExp(`^whx_downloads_total\\{outcome="${outcome}"\\} \\d`, 'm'));
  }
  t.match(text, /^whx_run_errors_total\{code="secret_key_mismatch"\} 0$/m);
  t.match(text, /^whx_database_up 1$/m);
  t.match(text, /^nodejs_eventloop_lag_p99_seconds \d/m);
});

t.test('serves only health and metrics routes in a worker process', async t => {
  const worker = await startApp(t, {
    databaseUrl: app.database.url,
    env: { PROCESS_ROLE: 'worker' },
  });
  t.equal((await worker.call('/health/live', { token: null })).status, 200);
  t.equal((await worker.call('/health/ready', { token: null })).status, 200);
  t.equal((await worker.call('/metrics', { token: null })).status, 200);
  t.equal((await worker.call('/v1/environments')).status, 404);
});
