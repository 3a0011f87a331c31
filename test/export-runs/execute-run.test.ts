import { createHash } from 'node:crypto';
import { gunzipSync } from 'node:zlib';
import t from 'tap';
import { tickQueue } from '../../src/db/job-queue.ts';
import { createParquetPlaces, parquetPlacesOptions } from '../../src/exports/parquet/places.ts';
import { adoptionRow, exportHeader, exportPart, ingestBody } from '../helpers/adoption-rows.ts';
import {
  configBody,
  makeConfig,
  runReader,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import { hastenRetries } from '../helpers/hasten-retries.ts';
import {
  contentsOf,
  freshPrefix,
  needsS3,
  readObject,
  s3Destination,
  s3Server,
} from '../helpers/s3.ts';
import { startS3Proxy } from '../helpers/s3-proxy.ts';
import { waitFor } from '../helpers/wait-for.ts';

/**
 * Runs from the slot to the object in the bucket, with the real database and the real S3 server.
 */

const rows = [
  adoptionRow({
    companyId: 'c1',
    companyName: 'Acme, "Inc."\nline',
    segmentNames: ['All', 'Paying, EU'],
    segmentIds: ['s1', 's2'],
  }),
  adoptionRow({
    companyId: 'c2',
    companyName: null,
    satisfaction: 4,
    feedbackCount: 7,
    starsState: 3,
  }),
  adoptionRow({ companyId: 'c2', featureId: 'f2', companyName: '' }),
];
const expected = exportHeader + exportPart(rows, '2026-03-02');

/** Time that a run waits for a place before a conversion to Parquet. */
let { waitMs } = parquetPlacesOptions;
const app = await startExportApp(t, {
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
const { pool } = app.database;
let worker: ReturnType<typeof startExportWorker> | null = null;

/** Starts the worker of all tests, or makes it look for jobs. */
function wake(): void {
  worker ??= startExportWorker(t, app);
  worker.wake();
}

/** Stops the worker of earlier tests, so that jobs wait until `wake`. */
async function stopWorker(): Promise<void> {
  await worker?.stop();
  worker = null;
}

let environments = 0;

/** Creates an environment on Monday: the daily slot of that day has passed. */
async function start() {
  environments += 1;
  const environmentId = `acme-${environments}`;
  const path = `/v1/environments/${environmentId}/export-configs`;
  app.setNow('2026-03-02T10:00:00.000Z');
  await app.putEnvironment(environmentId);
  const ingested = await app.ingest(environmentId, '2026-03-02', ingestBody(rows));
  if (ingested.status !== 201) throw new Error(ingested.text);
  const ofConfig = async (id: string) => (await app.call(`${path}/${id}`)).json;
  const runs = runReader(app, environmentId);
  const post = (id: string, json?: object) =>
    app.call(`${path}/${id}/runs`, { method: 'POST', ...(json && { json }) });
  const runNow = async (id: string) => {
    const started = await post(id);
    wake();
    return await runs.finished(started.json.id);
  };
  return { environmentId, path, ofConfig, runs, post, runNow };
}

t.test(
  'rejects a manual run with invalid input, of an unknown config or beside a queued run',
  needsS3,
  async t => {
    await stopWorker();
    const { environmentId, path, post } = await start();
    const { id } = await makeConfig(app, environmentId);
    t.equal((await post(id, { snapshotDate: '2026-03-01' })).status, 404);
    t.equal((await post(id, { snapshotDate: '2026-02-30' })).status, 400);
    t.equal((await post(id, { colour: 'red' })).json.errors[0].path, '/colour');
    t.equal((await post(id)).status, 202);
    const second = await post(id);
    t.equal(second.status, 409);
    t.equal(second.json.code, 'conflict');
    t.equal((await post('unknown')).status, 404);
    t.equal((await app.call(`${path}/${id}/runs/unknown`)).status, 404);
  },
);

t.test('checks the plan again when the job runs', needsS3, async t => {
  await stopWorker();
  const { environmentId, runs, post } = await start();
  const { id, key } = await makeConfig(app, environmentId);
  const { json } = await post(id);
  await app.putEnvironment(environmentId, 'pro');
  wake();
  t.match(await runs.finished(json.id), {
    state: 'failed',
    attempts: 0,
    error: { code: 'plan_upgrade_required' },
  });
  t.strictSame(await contentsOf(s3Destination({ key })), { objects: [], unfinished: [] });
});

t.test('writes file, manifest, run and status when a slot becomes due', needsS3, async t => {
  const { environmentId, path, ofConfig } = await start();
  const { id, key } = await makeConfig(app, environmentId, configBody('full', { manifest: true }));
  app.setNow('2026-03-03T00:00:00.000Z');
  await app.dependencies.jobs.send(tickQueue, {});
  wake();
  const config = await waitFor('the status of the first run', () => ofConfig(id), {
    isWanted: found => found.status.status !== 'never ran before',
  });
  t.strictSame(config.status, {
    status: 'successful',
    running: false,
    lastRunAt: '2026-03-03T00:00:00.000Z',
    lastSuccessfulRunAt: '2026-03-03T00:00:00.000Z',
    nextRunAt: '2026-03-04T00:00:00.000Z',
    error: null,
    lastDeliveredDate: '2026-03-02',
    currentRun: null,
    turnedOff: null,
  });

  const objectKey = `${key}/company-adoption_${environmentId}_2026-03-02.csv`;
  const manifestKey = `${key}/_manifest/company-adoption_${environmentId}_2026-03-02.csv.json`;
  t.strictSame(await contentsOf(s3Destination({ key })), {
    objects: [manifestKey, objectKey],
    unfinished: [],
  });
  const object = await readObject(s3Server().bucket, objectKey);
  t.equal(object.body.toString(), expected);
  t.equal(
    (await app.download(environmentId, '30-days-daily')).text,
    expected,
    'the object equals the section of the download',
  );
  t.equal(object.contentType, 'text/csv');
  t.strictSame(object.metadata, {
    'row-count': '3',
    'snapshot-date': '2026-03-02',
    'environment-id': environmentId,
  });

  const { items } = (await app.call(`${path}/${id}/runs`)).json;
  const [run] = items;
  const sha256 = createHash('sha256').update(expected).digest('hex');
  t.strictSame(run, {
    id: run.id,
    configId: id,
    trigger: 'schedule',
    backfillId: null,
    slot: '2026-03-03T00:00:00.000Z',
    snapshotDate: '2026-03-02',
    state: 'successful',
    attempts: 1,
    createdAt: '2026-03-03T00:00:00.000Z',
    startedAt: '2026-03-03T00:00:00.000Z',
    finishedAt: '2026-03-03T00:00:00.000Z',
    rowCount: 3,
    bytes: Buffer.byteLength(expected),
    sha256,
    objectKey,
    error: null,
  });
  t.strictSame((await app.call(`${path}/${id}/runs/${run.id}`)).json, run);
  t.strictSame((await app.call(`/v1/environments/${environmentId}/runs/${run.id}`)).json, run);
  const manifest = JSON.parse((await readObject(s3Server().bucket, manifestKey)).body.toString());
  const { columns, ...rest } = manifest;
  const registered = await pool.query('select version from snapshots where environment_id = $1', [
    environmentId,
  ]);
  t.strictSame(rest, {
    manifestVersion: 1,
    environmentId,
    configId: id,
    runId: run.id,
    snapshotDate: '2026-03-02',
    snapshotVersion: registered.rows[0].version,
    objectKey,
    format: 'csv',
    compression: 'none',
    bytes: run.bytes,
    rowCount: 3,
    sha256,
    completedAt: '2026-03-03T00:00:00.000Z',
  });
  t.strictSame(
    columns.map((column: { name: string }) => column.name),
    exportHeader.trim().split(','),
  );
  t.strictSame(columns[1], { name: 'Company Name', type: 'string', nullable: true });
  t.strictSame(columns[14], { name: 'Satisfaction', type: 'int32', nullable: true });
  t.strictSame(columns[15], { name: 'Feedback Count', type: 'int64', nullable: false });
});

t.test('removes the manifest before it replaces the object', needsS3, async t => {
  const { environmentId, runs, post, runNow } = await start();
  const proxy = await startS3Proxy();
  t.teardown(proxy.close);
  const body = configBody('full', { manifest: true, endpoint: proxy.endpoint });
  const { id } = await makeConfig(app, environmentId, { ...body, key: `${freshPrefix()}/{date}` });
  const first = await runNow(id);
  t.match(first.objectKey, /\/2026-03-02\/company-adoption_acme-\d+_2026-03-02\.csv$/);
  await app.ingest(environmentId, '2026-03-02', ingestBody(rows.slice(0, 1)));
  const before = proxy.requests.length;
  t.match(await runNow(id), { state: 'successful', rowCount: 1 });
  const writes = proxy.requests
    .slice(before)
    .filter(line => /^(?:PUT|DELETE)/.test(line))
    .map(line => `${line.split(' ')[0]} ${line.includes('/_manifest/') ? 'manifest' : 'object'}`);
  t.strictSame(writes, ['DELETE manifest', 'PUT object', 'PUT manifest']);

  // A run that fails between the two steps leaves an object without a manifest, never with a wrong
  // one.
  proxy.decide(({ method, url }) =>
    method === 'PUT' && !url?.includes('/_manifest/') ? 'invalid-request' : 'pass',
  );
  const { json } = await post(id);
  wake();
  await waitFor('the end of the first attempt', () => runs.read(json.id), {
    isWanted: found => found.attempts === 1 && found.state === 'queued',
  });
  const folder = first.objectKey.split('/').slice(0, 2).join('/');
  t.strictSame((await contentsOf(s3Destination({ key: folder }))).objects, [first.objectKey]);
});

t.test('removes the manifest of a file that it replaces without one', needsS3, async t => {
  const { environmentId, path, ofConfig, runNow } = await start();
  const { id, key } = await makeConfig(app, environmentId, configBody('full', { manifest: true }));
  const first = await runNow(id);
  t.equal((await contentsOf(s3Destination({ key }))).objects.length, 2);
  await app.call(`${path}/${id}`, { method: 'PATCH', json: { manifest: false } });
  t.equal((await ofConfig(id)).manifest, false);
  await app.ingest(environmentId, '2026-03-02', ingestBody(rows.slice(0, 1)));
  const second = await runNow(id);
  t.match(second, { state: 'successful', objectKey: first.objectKey });
  t.not(second.sha256, first.sha256);
  t.strictSame((await contentsOf(s3Destination({ key }))).objects, [first.objectKey]);
});

t.test('writes the same gzip bytes in every manual run', needsS3, async t => {
  const { environmentId, path, runs, post } = await start();
  const { id, key } = await makeConfig(
    app,
    environmentId,
    configBody('full', { compression: 'gzip', enabled: false }),
  );
  const objectKey = `${key}/company-adoption_${environmentId}_2026-03-02.csv.gz`;
  const bodies: Buffer[] = [];
  for (const json of [undefined, { snapshotDate: '2026-03-02' }]) {
    const started = await post(id, json);
    wake();
    t.equal(started.status, 202, started.text);
    t.match(started.json, {
      configId: id,
      trigger: 'manual',
      slot: null,
      snapshotDate: '2026-03-02',
      state: 'queued',
      attempts: 0,
    });
    const run = await runs.finished(started.json.id);
    t.match(run, { state: 'successful', rowCount: 3, objectKey, error: null });
    const { body, contentType } = await readObject(s3Server().bucket, objectKey);
    t.equal(contentType, 'application/gzip');
    t.equal(gunzipSync(body).toString(), expected);
    t.equal(run.bytes, body.length);
    t.equal(run.sha256, createHash('sha256').update(body).digest('hex'));
    bodies.push(body);
  }
  t.ok(bodies[0]?.equals(bodies[1] ?? Buffer.alloc(0)));
  const page = (await app.call(`${path}/${id}/runs?limit=1`)).json;
  t.equal(page.items.length, 1);
  t.equal(
    (await app.call(`${path}/${id}/runs?limit=1&cursor=${page.nextCursor}`)).json.nextCursor,
    null,
  );
});

t.test(
  'fails at once on a configuration error and clears it at the next success',
  needsS3,
  async t => {
    const { environmentId, ofConfig, runNow } = await start();
    const { id } = await makeConfig(app, environmentId);
    const setBucket = (bucket: string) =>
      pool.query('update export_configs set bucket = $1 where id = $2', [bucket, id]);
    t.match(await runNow(id), { state: 'successful' });
    app.setNow('2026-03-02T11:00:00.000Z');
    await setBucket('no-such-bucket');
    const failed = await runNow(id);
    t.match(failed, {
      state: 'failed',
      attempts: 1,
      rowCount: null,
      objectKey: null,
      error: { code: 'bucket_not_found' },
    });
    t.match((await ofConfig(id)).status, {
      status: 'failed',
      lastRunAt: '2026-03-02T11:00:00.000Z',
      lastSuccessfulRunAt: '2026-03-02T10:00:00.000Z',
      error: failed.error,
    });
    app.setNow('2026-03-02T12:00:00.000Z');
    await setBucket(s3Server().bucket);
    await runNow(id);
    t.match((await ofConfig(id)).status, {
      status: 'successful',
      lastRunAt: '2026-03-02T12:00:00.000Z',
      error: null,
    });
  },
);

t.test(
  'writes no object and reveals no internals when rows are missing from a snapshot',
  needsS3,
  async t => {
    const { environmentId, runs, post } = await start();
    const { id, key } = await makeConfig(app, environmentId);
    await pool.query(
      `update snapshots set row_count = row_count + 1, version = default where environment_id = $1`,
      [environmentId],
    );
    const { json } = await post(id);
    const attempt = async () => {
      await hastenRetries(pool);
      wake();
      return await runs.read(json.id);
    };
    const run = await waitFor('the end of all attempts', attempt, {
      isWanted: ({ state }) => state === 'failed',
    });
    t.match(run, { attempts: 3, error: { code: 'internal_error' } });
    t.notMatch(run.error.message, /row|registry|snapshot|table/i);
    t.strictSame(await contentsOf(s3Destination({ key })), { objects: [], unfinished: [] });
  },
);

t.test('writes Parquet files', async t => {
  const path = '/v1/environments/acme/export-configs';
  app.setNow('2026-03-02T10:00:00.000Z');
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
  const { parquetPlaces } = app.dependencies;
  const runs = runReader(app, 'acme');
  const start = async (configId: string) => {
    const started = await app.call(`${path}/${configId}/runs`, { method: 'POST' });
    wake();
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
    t.equal(parquetPlaces.taken, 0);
  });

  t.test('waits for a place, also while it is cancelled', needsS3, async t => {
    const config = await makeConfig(app, 'acme', configBody('full', { format: 'parquet' }));
    const places = [parquetPlaces.takeForDownload('one'), parquetPlaces.takeForDownload('two')];
    const isRunning = (id: string) =>
      waitFor(`the start of run ${id}`, () => runs.read(id), {
        isWanted: run => run.state === 'running',
      });
    const first = await start(config.id);
    await isRunning(first.id);
    const off = await app.call(`${path}/${config.id}`, {
      method: 'PATCH',
      json: { enabled: false },
    });
    t.equal(off.status, 200);
    t.match(await runs.finished(first.id), { state: 'failed', error: { code: 'cancelled' } });

    const second = await waitFor('an accepted run', () => start(config.id), {
      isWanted: run => run.id !== undefined,
    });
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
    t.teardown(() => {
      waitMs = parquetPlacesOptions.waitMs;
    });
    const { id } = await start(config.id);
    const currentRun = async () => (await app.call(`${path}/${config.id}/status`)).json.currentRun;
    // Other runs go first.
    const waiting = await waitFor('an attempt in more than 30 s', currentRun, {
      isWanted: run => Date.parse(run?.nextAttemptAt) > Date.now() + 30_000,
    });
    t.match(waiting, { id, waitingFor: 'retry', attempts: 1, error: null });
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
});
