import t from 'tap';
import { enqueueDue } from '../../src/export-runs/enqueue-due.ts';
import { startTestApp } from '../helpers/app.ts';
import { emptyTables } from '../helpers/postgres.ts';

/**
 * Missed slots, replaced snapshots and backfills with a real database. No worker executes the runs.
 * 2026-03-02 is a Monday.
 */

t.setTimeout(300_000);

const path = '/v1/environments/acme/export-configs/a';

const app = await startTestApp(t);
const { pool } = app.database;
const { db, jobs } = app.dependencies;

/** Replaces all data by an environment with one config. */
async function start(settings: { schedule?: string; catchUp?: string; redeliver?: boolean }) {
  await emptyTables(pool);
  app.setNow('2026-03-02T00:00:30Z');
  const { schedule = 'daily', catchUp = 'newest', redeliver = false } = settings;
  await app.putEnvironment('acme');
  await pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
       access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at, catch_up, redeliver)
     select 'acme', 'a', 'a', true, $1, 'custom', 'acme', 'r', '', 'https://s3.example.com', 'id', 'sealed', 'none', false, at, at, at, $2, $3
     from (values (timestamptz '2026-03-01T12:00:00Z')) as made (at)`,
    [schedule, catchUp, redeliver],
  );
  /** Registers or replaces snapshots, and renders one of them. */
  const replace = async (...dates: string[]) => {
    await pool.query(
      `insert into snapshots (environment_id, snapshot_date, row_count) select 'acme', date, 0 from unnest($1::date[]) as date
       on conflict (environment_id, snapshot_date) do update set version = default`,
      [dates],
    );
    const [date = ''] = dates;
    const { signal } = new AbortController();
    await app.dependencies.renderer.render({ environmentId: 'acme', date }, signal);
  };
  const tick = async (now: string) => {
    app.setNow(now);
    return await enqueueDue(db, jobs, new Date(now));
  };
  /** Ends the queued run as a worker would. Returns its trigger and date, or null. */
  const finish = async (state = 'successful') => {
    const { rows } = await pool.query(
      `update export_runs as run
       set state = $1, finished_at = now(), job_id = null, attempts = 1,
         error_code = case $1 when 'failed' then 'write_denied' end, error_message = case $1 when 'failed' then 'No.' end,
         snapshot_version = case $1 when 'failed' then run.snapshot_version else snapshot.version end
       from snapshots as snapshot
       where run.state = 'queued' and snapshot.environment_id = run.environment_id and snapshot.snapshot_date = run.snapshot_date
       returning run.trigger, run.snapshot_date::text`,
      [state],
    );
    return rows.length === 0 ? null : `${rows[0].trigger} ${rows[0].snapshot_date}`;
  };
  /** Ticks and ends runs until none is left. */
  const drain = async (now: string) => {
    const done: string[] = [];
    for (;;) {
      await tick(now);
      const run = await finish();
      if (run === null) return done;
      done.push(run);
    }
  };
  const backfill = async (id: string) => (await app.call(`${path}/backfills/${id}`)).json;
  const startBackfill = async (from: string, to: string) => {
    const started = await app.call(`${path}/backfills`, { method: 'POST', json: { from, to } });
    if (started.status !== 202) throw new Error(started.text);
    return started.json.id;
  };
  return { replace, tick, finish, drain, backfill, startBackfill };
}

t.test('runs all slots that an outage missed, oldest first and one at a time', async t => {
  const { replace, tick, finish, drain } = await start({ catchUp: 'all' });
  await replace('2026-03-01', '2026-03-02', '2026-03-03', '2026-03-04');
  await tick('2026-03-02T00:00:30Z');
  t.equal(await finish(), 'schedule 2026-03-01');
  t.match(await tick('2026-03-05T09:00:00Z'), { added: 1, sent: 1 });
  t.match(await tick('2026-03-05T09:01:00Z'), { added: 0 }, 'the first run is unfinished');
  t.equal(await finish(), 'schedule 2026-03-02');
  t.strictSame(await drain('2026-03-05T09:02:00Z'), ['schedule 2026-03-03', 'schedule 2026-03-04']);
});

t.test('runs missed slots of the last 31 days only', async t => {
  const { replace, tick, finish } = await start({ catchUp: 'all' });
  await replace('2026-03-28', '2026-03-29', '2026-03-30', '2026-03-31');
  await tick('2026-04-30T09:00:00Z');
  t.equal(await finish(), 'schedule 2026-03-30');
});

t.test('runs missed slots of a weekly config on Mondays only', async t => {
  const { replace, drain } = await start({ catchUp: 'all', schedule: 'weekly' });
  await replace('2026-03-01', '2026-03-08', '2026-03-15');
  t.strictSame(await drain('2026-03-18T09:00:00Z'), [
    'schedule 2026-03-01',
    'schedule 2026-03-08',
    'schedule 2026-03-15',
  ]);
});

t.test('delivers a replaced snapshot again after its slot, once for each version', async t => {
  const { replace, tick, finish, drain } = await start({ redeliver: true });
  await replace('2026-02-28', '2026-03-01');
  t.strictSame(await drain('2026-03-02T00:01:00Z'), ['schedule 2026-03-01']);
  await replace('2026-02-28', '2026-03-02');
  t.strictSame(await drain('2026-03-02T10:00:00Z'), [], 'no slot delivered these days');
  await replace('2026-03-01');
  await replace('2026-03-01');
  t.strictSame(await drain('2026-03-02T10:01:00Z'), ['redelivery 2026-03-01']);

  // A due slot goes first, and a version that failed is not tried again.
  await replace('2026-03-01');
  t.match(await tick('2026-03-03T00:01:00Z'), { added: 1, redelivered: 0 });
  t.equal(await finish(), 'schedule 2026-03-02');
  t.match(await tick('2026-03-03T00:02:00Z'), { added: 0, redelivered: 1 });
  t.equal(await finish('failed'), 'redelivery 2026-03-01');
  t.strictSame(await drain('2026-03-03T00:03:00Z'), []);
  await replace('2026-03-01');
  t.strictSame(await drain('2026-03-03T00:04:00Z'), ['redelivery 2026-03-01']);
});

t.test('does not deliver a replaced snapshot again unless the config asks for it', async t => {
  const { replace, drain } = await start({ redeliver: false });
  await replace('2026-03-01');
  await drain('2026-03-02T00:01:00Z');
  await replace('2026-03-01');
  t.strictSame(await drain('2026-03-02T10:00:00Z'), []);
});

t.test('runs a due slot before the next date of a backfill', async t => {
  const { replace, tick, finish, drain, backfill, startBackfill } = await start({});
  await replace('2026-02-10', '2026-02-11', '2026-02-12', '2026-03-01', '2026-03-02');
  t.strictSame(await drain('2026-03-02T00:01:00Z'), ['schedule 2026-03-01']);
  const id = await startBackfill('2026-02-01', '2026-02-28');
  t.equal(await finish(), 'backfill 2026-02-10');
  t.match(await tick('2026-03-02T23:59:00Z'), { backfilled: 1 });
  const { rows } = await pool.query(
    `select priority from pgboss.job where name = 'run-export' and state = 'created' order by created_on desc limit 1`,
  );
  t.equal(rows[0].priority, -1, 'jobs of backfills come after all others');
  // No worker has begun the run of 2026-02-11 when the slot becomes due.
  t.match(await tick('2026-03-03T00:00:10Z'), { added: 1, backfilled: 0 });
  t.match(await backfill(id), { state: 'running', total: 3, successful: 1 });
  t.equal(await finish(), 'schedule 2026-03-02');
  t.strictSame(await drain('2026-03-03T00:01:00Z'), ['backfill 2026-02-11', 'backfill 2026-02-12']);
  t.match(await backfill(id), { state: 'finished', successful: 3, failed: 0 });
});

t.test('ends a backfill when it is cancelled, and with the plan or the config', async t => {
  const { replace, tick, finish, backfill, startBackfill, drain } = await start({});
  await replace('2026-02-10', '2026-02-11', '2026-03-01', '2026-03-02');
  await drain('2026-03-02T00:01:00Z');
  const [from, to] = ['2026-02-01', '2026-02-28'] as const;

  const first = await startBackfill(from, to);
  const cancelled = await app.call(`${path}/backfills/${first}/cancel`, { method: 'POST' });
  t.equal(cancelled.status, 202, cancelled.text);
  t.match(cancelled.json, { state: 'cancelled', total: 2, successful: 0, failed: 1 });
  t.match(await tick('2026-03-02T10:00:00Z'), { backfilled: 0 });

  const second = await startBackfill(from, to);
  t.equal(await finish(), 'backfill 2026-02-10');
  await app.putEnvironment('acme', 'pro');
  await tick('2026-03-02T10:01:00Z');
  t.match(await backfill(second), { state: 'cancelled', successful: 1, failed: 0 });
  await app.putEnvironment('acme', 'enterprise');

  const third = await startBackfill(from, to);
  t.equal((await app.call(path, { method: 'PATCH', json: { enabled: false } })).status, 200);
  t.match(await backfill(third), { state: 'cancelled', successful: 0, failed: 1 });
  t.match(await tick('2026-03-02T10:02:00Z'), { backfilled: 0 });
});
