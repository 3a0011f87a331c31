import t from 'tap';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import {
  configBody,
  credentialsOf,
  makeConfig,
  runReader,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import { eventually } from '../helpers/raw-http.ts';
import { difference, readMetrics } from '../helpers/read-metrics.ts';
import { needsS3 } from '../helpers/s3.ts';

/** Metrics of runs, with the real storage. */

const path = '/v1/environments/acme/export-configs';

t.test('counts successful and failed runs with rows, bytes and duration', needsS3, async t => {
  const app = await startExportApp(t);
  await app.putEnvironment('acme');
  await app.ingest(
    'acme',
    '2026-03-01',
    ingestBody([adoptionRow(), adoptionRow({ companyId: 'c2' })]),
  );
  const { id } = await makeConfig(app, 'acme', configBody());
  const worker = startExportWorker(t, app);
  const runs = runReader(app, 'acme');
  // The route keeps its text for a second.
  const scrape = async () => readMetrics(await app.dependencies.metrics.render());
  const runNow = async () => {
    const before = await scrape();
    const started = await app.call(`${path}/${id}/runs`, { method: 'POST' });
    worker.wake();
    const run = await runs.finished(started.json.id);
    // The worker updates the row before it counts the run.
    await eventually(
      async () =>
        difference(
          before,
          await scrape(),
        )('whx_run_attempt_duration_seconds_count{outcome="successful"}') +
          difference(
            before,
            await scrape(),
          )('whx_run_attempt_duration_seconds_count{outcome="failed"}') ===
        1,
      'the attempt is counted',
    );
    return { run, more: difference(before, await scrape()) };
  };

  t.test('counts a successful run', async t => {
    const { run, more } = await runNow();
    t.equal(run.state, 'successful');
    t.equal(more('whx_runs_total{state="successful",code="none"}'), 1);
    t.equal(more('whx_run_attempts_total{outcome="successful"}'), 1);
    t.equal(more('whx_run_rows_total'), 2);
    t.equal(more('whx_run_bytes_total'), run.bytes);
  });

  t.test('counts a run that fails with a storage error', async t => {
    await app.database.pool.query('update export_configs set access_key_id = $1', [
      credentialsOf('readOnly').accessKeyId,
    ]);
    const { run, more } = await runNow();
    t.match(run, { state: 'failed', error: { code: 'secret_key_mismatch' } });
    t.equal(more('whx_runs_total{state="failed",code="secret_key_mismatch"}'), 1);
    t.equal(more('whx_run_errors_total{code="secret_key_mismatch"}'), 1);
    t.equal(more('whx_run_attempts_total{outcome="failed"}'), 1);
    t.equal(more('whx_run_bytes_total'), 0);
  });
});

t.test('counts a run that fails without an attempt', async t => {
  const app = await startExportApp(t, { now: '2026-03-04T00:00:30.000Z' });
  await app.putEnvironment('acme');
  const { pool } = app.database;
  await pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
       access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at)
     select 'acme', id, id, true, 'daily', 'custom', 'b', 'r', '', 'https://s3.example.com', 'id', 'sealed', 'none', false, at, at, at
     from unnest(array['a', 'b']) as id, (select timestamptz '2026-01-01T12:00:00Z') as since (at)`,
  );
  await pool.query(
    `insert into export_runs (environment_id, config_id, id, trigger, slot, snapshot_date, state, created_at)
     values ('acme', 'a', 'r1', 'schedule', '2026-03-03T00:00:00Z', '2026-03-02', 'queued', now())`,
  );
  startExportWorker(t, app);
  await eventually(async () => {
    const metrics = readMetrics((await app.call('/metrics', { token: null })).text);
    return metrics.get('whx_runs_total{state="failed",code="snapshot_missing"}') === 1;
  }, 'the tick counts the failed run');
});
