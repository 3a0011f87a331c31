import t from 'tap';
import { selectQueueState } from '../../src/export-runs/select-queue-state.ts';
import { startTestApp } from '../helpers/app.ts';
import { emptyTables } from '../helpers/postgres.ts';
import { readMetrics } from '../helpers/read-metrics.ts';

/**
 * Counts of waiting runs and jobs, with a real database and without workers. 2026-03-02 is a
 * Monday.
 */

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
  t.match(await state(), { readyJobs: 0, oldestReadyJobSeconds: 0, delayedJobs: 0, activeJobs: 0 });
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
