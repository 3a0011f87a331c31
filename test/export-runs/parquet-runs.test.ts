import { createHash } from 'node:crypto';
import t from 'tap';
import { createParquetPlaces, parquetPlacesOptions } from '../../src/exports/parquet/places.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import {
  configBody,
  makeConfig,
  runReader,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import { comparableRows, readParquet, withoutDuckDb } from '../helpers/read-parquet.ts';
import { contentsOf, needsS3, readObject, s3Destination, s3Server } from '../helpers/s3.ts';
import { until } from '../helpers/until.ts';

const path = '/v1/environments/acme/export-configs';
let { waitMs } = parquetPlacesOptions;
const app = await startExportApp(t, {
  now: '2026-03-02T10:00:00.000Z',
  adjust: dependencies => ({
    ...dependencies,
    parquetPlaces: createParquetPlaces({
      ...parquetPlacesOptions,
      get waitMs() {
        return waitMs;
      },
    }),
  }),
});
await app.putEnvironment('acme');
const rows = [
  adoptionRow({
    companyName: 'Acme, "Inc."\nline',
    segmentNames: ['All', 'Paying, EU'],
    segmentIds: ['1', '2'],
  }),
  adoptionRow({ companyId: 'c2', companyName: null, satisfaction: 4 }),
];
const ingested = await app.ingest('acme', '2026-03-01', ingestBody(rows));
if (ingested.status !== 201) throw new Error(ingested.text);
const worker = startExportWorker(t, app);
const { parquetPlaces } = app.dependencies;
const runs = runReader(app, 'acme');
const start = async (configId: string) => {
  const started = await app.call(`${path}/${configId}/runs`, { method: 'POST' });
  worker.wake();
  return started.json;
};
const post = (overrides: object) =>
  app.call(path, { method: 'POST', json: configBody('full', overrides) });

t.test('writes the file and its manifest as Parquet', needsS3, async t => {
  const config = await makeConfig(
    app,
    'acme',
    configBody('full', { format: 'parquet', manifest: true }),
  );
  t.equal(config.format, 'parquet');
  t.equal(config.compression, 'none');
  const run = await runs.finished((await start(config.id)).id);
  t.equal(run.state, 'successful');
  const objectKey = `${config.key}/company-adoption_acme_2026-03-01.parquet`;
  const manifestKey = `${config.key}/_manifest/company-adoption_acme_2026-03-01.parquet.json`;
  t.strictSame((await contentsOf(s3Destination({ key: config.key }))).objects, [
    manifestKey,
    objectKey,
  ]);

  const object = await readObject(s3Server().bucket, objectKey);
  t.equal(object.contentType, 'application/vnd.apache.parquet');
  t.strictSame(object.metadata, {
    'row-count': '2',
    'snapshot-date': '2026-03-01',
    'environment-id': 'acme',
  });
  const sha256 = createHash('sha256').update(object.body).digest('hex');
  t.match(run, { objectKey, rowCount: 2, bytes: object.body.length, sha256 });
  const manifest = JSON.parse((await readObject(s3Server().bucket, manifestKey)).body.toString());
  t.match(manifest, { format: 'parquet', compression: 'none', objectKey, rowCount: 2, sha256 });
  t.strictSame(manifest.columns.slice(0, 7).concat(manifest.columns.slice(-3)), [
    { name: 'company_id', type: 'string', nullable: false },
    { name: 'company_name', type: 'string', nullable: true },
    { name: 'feature_name', type: 'string', nullable: false },
    { name: 'feature_id', type: 'string', nullable: false },
    { name: 'date', type: 'date', nullable: false },
    { name: 'first_seen', type: 'timestamp', nullable: false },
    { name: 'last_seen', type: 'timestamp', nullable: false },
    { name: 'feedback_count', type: 'int64', nullable: false },
    { name: 'segment_names', type: 'list<string>', nullable: false },
    { name: 'segment_ids', type: 'list<string>', nullable: false },
  ]);
  const daily = '/v1/environments/acme/exports/30-days-daily';
  t.ok((await app.call(`${daily}.parquet`)).body.equals(object.body), 'equals the download');
  if (withoutDuckDb === false) {
    const csv = (await app.call(`${daily}.csv`)).text;
    t.strictSame((await readParquet(t, object.body)).rows, comparableRows(csv));
  }
  t.equal(parquetPlaces.taken, 0);
});

t.test('waits for a place, also while it is cancelled', needsS3, async t => {
  const config = await makeConfig(app, 'acme', configBody('full', { format: 'parquet' }));
  const places = [parquetPlaces.takeForDownload('one'), parquetPlaces.takeForDownload('two')];
  const isRunning = (id: string) =>
    until(
      () => runs.read(id),
      run => run.state === 'running',
    );
  const first = await start(config.id);
  await isRunning(first.id);
  const off = await app.call(`${path}/${config.id}`, { method: 'PATCH', json: { enabled: false } });
  t.equal(off.status, 200);
  t.match(await runs.finished(first.id), { state: 'failed', error: { code: 'cancelled' } });

  const second = await until(
    () => start(config.id),
    run => run.id !== undefined,
  );
  await isRunning(second.id);
  t.throws(() => parquetPlaces.takeForDownload('three'), { code: 'too_many_downloads' });
  for (const { release } of places) release();
  t.equal((await runs.finished(second.id)).state, 'successful');
  t.equal(parquetPlaces.taken, 0);
});

t.test('returns to the queue when there is no place in time', needsS3, async t => {
  const config = await makeConfig(app, 'acme', configBody('full', { format: 'parquet' }));
  const place = parquetPlaces.takeForDownload('acme');
  waitMs = 1;
  const { id } = await start(config.id);
  await until(
    () => runs.read(id),
    run => run.state === 'queued' && run.attempts === 1,
  );
  const { currentRun } = (await app.call(`${path}/${config.id}/status`)).json;
  t.match(currentRun, { id, waitingFor: 'retry', error: null });
  t.ok(Date.parse(currentRun.nextAttemptAt) > Date.now() + 30_000, 'other runs go first');
  place.release();
  t.equal(
    (await app.call(`${path}/${config.id}/runs/${id}/retry`, { method: 'POST' })).status,
    202,
  );
  t.match(await runs.finished(id), { state: 'successful', attempts: 2 });
  t.equal(parquetPlaces.taken, 0);
});

t.test('accepts Parquet without another compression only', needsS3, async t => {
  const refused = await post({ format: 'parquet', compression: 'gzip' });
  t.equal(refused.status, 400);
  t.strictSame(refused.json.errors, [
    { path: '/compression', message: 'must be none for the format parquet' },
  ]);
  t.equal((await post({ format: 'arrow' })).status, 400);

  const config = await makeConfig(app, 'acme', configBody('full', { compression: 'gzip' }));
  t.equal(config.format, 'csv');
  const patch = (json: object) => app.call(`${path}/${config.id}`, { method: 'PATCH', json });
  t.equal((await patch({ format: 'parquet' })).json.errors[0].path, '/compression');
  const patched = await patch({ format: 'parquet', compression: 'none' });
  t.match(patched.json, { format: 'parquet', compression: 'none' });
  t.equal((await patch({ compression: 'gzip' })).status, 400);

  const { key } = config;
  t.equal((await post({ key, format: 'parquet' })).json.code, 'conflict');
  t.equal((await post({ key })).status, 201, 'a CSV file is another object');
  t.equal((await patch({ format: 'csv' })).json.code, 'conflict');
});
