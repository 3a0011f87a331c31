import t, { type Test } from 'tap';
import { selectQueueState } from '../../src/export-runs/select-queue-state.sql.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startTestApp } from '../helpers/app.ts';
import {
  configBody,
  credentialsOf,
  makeConfig,
  runReader,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import { emptyTables } from '../helpers/postgres.ts';
import { difference, readMetrics } from '../helpers/read-metrics.ts';
import { needsS3 } from '../helpers/s3.ts';
import { waitFor } from '../helpers/wait-for.ts';

/** Metrics of runs, with the real storage. */

const path = '/v1/environments/acme/export-configs';
const app = await startExportApp(t);
const { pool } = app.database;

/** Starts a worker on empty tables, for one test. */
async function startAt(t: Test, now: string) {
  await emptyTables(pool);
  app.setNow(now);
  await app.putEnvironment('acme');
  return () => startExportWorker(t, app);
}

t.test('counts successful and failed runs with rows, bytes and duration', needsS3, async t => {
  const startWorker = await startAt(t, '2026-03-02T10:00:00.000Z');
  await app.ingest(
    'acme',
    '2026-03-01',
    ingestBody([adoptionRow(), adoptionRow({ companyId: 'c2' })]),
  );
  const { id } = await makeConfig(app, 'acme', configBody());
  const worker = startWorker();
  const runs = runReader(app, 'acme');
  // The route keeps its text for a second.
  const scrape = async () => readMetrics(await app.dependencies.metrics.render());
  const runNow = async () => {
    const before = await scrape();
    const started = await app.call(`${path}/${id}/runs`, { method: 'POST' });
    worker.wake();
    const run = await runs.finished(started.json.id);
    // The worker updates the row before it counts the run.
    await waitFor(
      'the count of the attempt',
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
    await pool.query('update export_configs set access_key_id = $1', [
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
  const startWorker = await startAt(t, '2026-03-04T00:00:30.000Z');
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
  startWorker();
  await waitFor('the count of the failed run', async () => {
    const metrics = readMetrics((await app.call('/metrics', { token: null })).text);
    return metrics.get('whx_runs_total{state="failed",code="snapshot_missing"}') === 1;
  });
});

/**
 * Counts of waiting runs and jobs, with a real database and without workers. 2026-03-02 is a
 * Monday.
 */
t.test('reports the state of the queue', async t => {
  // A separate service, because the metrics keep the state of the queue for 15 s.
  const app = await startTestApp(t);
  const { pool } = app.database;

  /** Replaces all data by two environments. */
  async function start(now: string) {
    await emptyTables(pool);
    app.setNow(now);
    for (const id of ['acme', 'other']) await app.putEnvironment(id);
    const addConfig = (
      id: string,
      {
        environment = 'acme',
        schedule = 'daily',
        enabled = true,
        since = '2026-01-01T12:00:00Z',
      } = {},
    ) =>
      pool.query(
        `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
         access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at)
       values ($1, $2, $2, $3, $4, 'custom', 'b', 'r', '', 'https://s3.example.com', 'id', 'sealed', 'none', false, $5, $5, $5)`,
        [environment, id, enabled, schedule, since],
      );
    const addSnapshot = (environment: string, date: string) =>
      pool.query(
        'insert into snapshots (environment_id, snapshot_date, row_count) values ($1, $2, 0)',
        [environment, date],
      );
    const addRun = (id: string, config: string, state: string, slot: string | null) =>
      pool.query(
        `insert into export_runs (environment_id, config_id, id, trigger, slot, snapshot_date, state, created_at, finished_at)
       values ('acme', $2, $1, $4, $5, '2026-03-03', $3, now(), case when $3 in ('successful', 'failed') then now() end)`,
        [id, config, state, slot === null ? 'manual' : 'schedule', slot],
      );
    const addJob = (state: string, startAfterSeconds: number) =>
      pool.query(
        `insert into pgboss.job (name, state, start_after) values ('run-export', $1::pgboss.job_state, now() + make_interval(secs => $2))`,
        [state, startAfterSeconds],
      );
    const state = (at = now) => selectQueueState(app.dependencies.db, new Date(at));
    return { addConfig, addSnapshot, addRun, addJob, state };
  }

  t.test('counts late slots of enabled configs until their run ends', async t => {
    const { addConfig, addSnapshot, addRun, state } = await start('2026-03-04T00:30:00.000Z');
    await addSnapshot('acme', '2026-03-03');
    await addConfig('daily');
    await addConfig('off', { enabled: false });
    await addConfig('new', { since: '2026-03-04T00:10:00Z' });
    await addConfig('without-snapshot', { environment: 'other' });
    await addConfig('weekly', { schedule: 'weekly' });
    const both = {
      lateForRun: { slots: 1, oldestSeconds: 1_800 },
      lateForSnapshot: { slots: 2, oldestSeconds: 2 * 86_400 + 1_800 },
    };
    t.match(
      await state(),
      both,
      'the snapshot of Sunday, for the weekly slot of Monday, is missing too',
    );

    await addRun('r1', 'daily', 'successful', '2026-03-03T00:00:00Z');
    await addRun('r2', 'daily', 'running', '2026-03-04T00:00:00Z');
    t.match(
      await state(),
      { ...both, queuedRuns: 0, runningRuns: 1 },
      'a finished run of an older slot and a running run do not clear the late slot',
    );
    await addRun('r3', 'weekly', 'failed', '2026-03-02T00:00:00Z');
    t.match(await state(), { ...both, lateForSnapshot: { slots: 1, oldestSeconds: 1_800 } });
    t.match((await state('2026-03-05T00:00:00.000Z')).lateForRun, { slots: 0, oldestSeconds: 0 });
  });

  t.test('does not report late slots after a plan downgrade', async t => {
    const { addConfig, state } = await start('2026-03-04T00:30:00.000Z');
    await addConfig('daily');
    t.equal((await state()).lateForSnapshot.slots, 1);
    await app.putEnvironment('acme', 'pro');
    t.equal((await state()).lateForSnapshot.slots, 0);
  });

  t.test('counts ready, delayed and active jobs, but no finished ones', async t => {
    const { addJob, state } = await start('2026-03-04T00:30:00.000Z');
    t.match(await state(), {
      readyJobs: 0,
      oldestReadyJobSeconds: 0,
      delayedJobs: 0,
      activeJobs: 0,
    });
    await addJob('created', -120);
    await addJob('retry', -60);
    await addJob('retry', 600);
    await addJob('active', -10_000);
    await addJob('completed', -10_000);
    await addJob('failed', -10_000);
    const found = await state();
    t.match(found, { readyJobs: 2, delayedJobs: 1, activeJobs: 1 });
    t.ok(found.oldestReadyJobSeconds >= 120 && found.oldestReadyJobSeconds < 180);

    const metrics = readMetrics((await app.call('/metrics', { token: null })).text);
    t.equal(metrics.get('whx_queue_jobs{state="ready"}'), 2);
    t.equal(metrics.get('whx_slots_late{waiting_for="run"}'), 0);
  });
});
