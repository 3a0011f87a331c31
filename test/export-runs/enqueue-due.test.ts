import t from 'tap';
import { systemActor } from '../../src/audit/audit-log-repository.ts';
import { tickQueue } from '../../src/db/job-queue.ts';
import { enqueueDue } from '../../src/export-runs/enqueue-due.sql.ts';
import { wakeRuns } from '../../src/export-runs/enqueue-runs.sql.ts';
import { insertManualRun } from '../../src/export-runs/repository.ts';
import { startApp, startTestApp, testNow } from '../helpers/app.ts';
import { lowestOf } from '../helpers/lowest-of.ts';
import { emptyTables } from '../helpers/postgres.ts';
import { waitFor } from '../helpers/wait-for.ts';

t.setTimeout(600_000);

/**
 * Tests which runs become due, with a real database. No worker executes them. 2026-03-02 is a
 * Monday.
 */

interface Setup {
  readonly configs?: readonly {
    id: string;
    schedule?: string;
    since?: string;
    environment?: string;
    enabled?: boolean;
  }[];
  readonly snapshots?: readonly string[];
}

const app = await startTestApp(t);
const { pool } = app.database;

/** Replaces all data by an environment with these configs and snapshots. */
async function start({ configs = [{ id: 'a' }], snapshots = [] }: Setup = {}) {
  await emptyTables(pool);
  app.setNow(testNow);
  await app.putEnvironment('acme');
  for (const {
    id,
    schedule = 'daily',
    since = '2026-01-01T12:00:00Z',
    environment = 'acme',
    enabled = true,
  } of configs) {
    await pool.query(
      `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
         access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at)
       values ($1, $2, $2, $3, $4, 'custom', 'b', 'r', '', 'https://s3.example.com', 'id', 'sealed', 'none', false, $5, $5, $5)`,
      [environment, id, enabled, schedule, since],
    );
  }
  const ingested = (date: string) =>
    pool.query(
      `insert into snapshots (environment_id, snapshot_date, row_count) values ('acme', $1, 0)`,
      [date],
    );
  for (const date of snapshots) await ingested(date);
  const tick = (now: string) =>
    enqueueDue(app.dependencies.db, app.dependencies.jobs, new Date(now));
  const runs = async () => {
    const { rows } = await pool.query(
      `select config_id, to_char(slot at time zone 'UTC', 'YYYY-MM-DD HH24:MI') as slot, snapshot_date::text, state, error_code,
         job_id is not null and exists (select from pgboss.job where job.id = export_runs.job_id and job.name = 'run-export') as has_job
       from export_runs order by config_id, slot`,
    );
    return rows.map(row =>
      [
        row.config_id,
        row.slot.replace(' 00:00', ''),
        row.snapshot_date,
        row.state,
        row.error_code,
        row.has_job && 'job',
      ]
        .filter(Boolean)
        .join(' '),
    );
  };
  /** Ends all queued runs as a worker would. */
  const finishAll = () =>
    pool.query(
      `update export_runs set state = 'successful', finished_at = now(), job_id = null where state = 'queued'`,
    );
  return { tick, runs, ingested, finishAll };
}

t.test(
  'enqueues a daily run once at midnight, with the snapshot of the day that ended',
  async t => {
    const { tick, runs } = await start({
      configs: [{ id: 'a', since: '2026-03-03T12:00:00Z' }],
      snapshots: ['2026-03-03', '2026-03-04'],
    });
    await tick('2026-03-03T23:59:59.999Z');
    t.strictSame(await runs(), []);
    t.strictSame(await tick('2026-03-04T00:00:00.000Z'), {
      added: 1,
      redelivered: 0,
      backfilled: 0,
      sent: 1,
      failed: 0,
      switchedOff: 0,
    });
    t.strictSame(await runs(), ['a 2026-03-04 2026-03-03 queued job']);
    t.strictSame(await tick('2026-03-04T00:01:00.000Z'), {
      added: 0,
      redelivered: 0,
      backfilled: 0,
      sent: 0,
      failed: 0,
      switchedOff: 0,
    });
    t.equal((await runs()).length, 1);
  },
);

t.test('enqueues weekly configs on Monday, with the snapshot of Sunday', async t => {
  const { tick, runs } = await start({
    configs: [{ id: 'w', schedule: 'weekly', since: '2026-02-25T12:00:00Z' }],
    snapshots: ['2026-03-01'],
  });
  await tick('2026-03-01T23:59:00Z');
  t.strictSame(await runs(), []);
  await tick('2026-03-02T00:00:30Z');
  t.strictSame(await runs(), ['w 2026-03-02 2026-03-01 queued job']);
  await tick('2026-03-03T00:00:30Z');
  t.equal((await runs()).length, 1);
});

t.test('enqueues daily and weekly runs at the end of a year', async t => {
  const { tick, runs } = await start({
    configs: [
      { id: 'd', since: '2025-12-31T12:00:00Z' },
      { id: 'w', schedule: 'weekly', since: '2025-12-31T12:00:00Z' },
    ],
    snapshots: ['2025-12-31', '2026-01-04'],
  });
  await tick('2026-01-01T00:00:00Z');
  t.strictSame(await runs(), ['d 2026-01-01 2025-12-31 queued job']);
  await tick('2026-01-05T00:00:00Z');
  t.match(await runs(), [
    'd 2026-01-01 2025-12-31 queued job',
    'w 2026-01-05 2026-01-04 queued job',
  ]);
});

t.test('enqueues one run and one job per slot when several processes tick at once', async t => {
  const configs = Array.from({ length: 40 }, (_, index) => ({ id: `c${index}` }));
  const { tick, runs } = await start({ configs, snapshots: ['2026-03-03'] });
  const other = await startApp(t, { databaseUrl: app.database.url });
  const now = new Date('2026-03-04T00:00:05Z');
  const ticks = await Promise.all([
    tick(now.toISOString()),
    enqueueDue(other.dependencies.db, other.dependencies.jobs, now),
    tick(now.toISOString()),
    enqueueDue(other.dependencies.db, other.dependencies.jobs, now),
    wakeRuns(other.dependencies.db, other.dependencies.jobs, 'acme', '2026-03-03'),
  ]);
  t.equal(
    ticks.reduce((sum, moved) => sum + (moved?.added ?? 0), 0),
    40,
  );
  await tick(now.toISOString());
  t.strictSame(
    new Set((await runs()).map(run => run.replace(/^c\d+ /, ''))),
    new Set(['2026-03-04 2026-03-03 queued job']),
  );
  t.equal((await runs()).length, 40);
  const { rows } = await pool.query(
    `select count(*)::int as jobs from pgboss.job where name = 'run-export'`,
  );
  t.equal(rows[0].jobs, 40);
});

t.test('enqueues only the newest missed slot after an outage of three days', async t => {
  const { tick, runs, finishAll } = await start({
    configs: [{ id: 'a', since: '2026-03-01T12:00:00Z' }],
    snapshots: ['2026-03-01', '2026-03-02', '2026-03-03', '2026-03-04'],
  });
  await tick('2026-03-02T00:00:30Z');
  await finishAll();
  await tick('2026-03-05T09:17:00Z');
  t.strictSame(await runs(), [
    'a 2026-03-02 2026-03-01 successful',
    'a 2026-03-05 2026-03-04 queued job',
  ]);
});

t.test(
  'queues a run without a snapshot, starts it on ingest and fails it at the next slot',
  async t => {
    const { tick, runs, ingested, finishAll } = await start({
      configs: [{ id: 'a', since: '2026-03-01T12:00:00Z' }],
    });
    await tick('2026-03-02T00:00:30Z');
    await tick('2026-03-02T13:00:00Z');
    t.strictSame(await runs(), ['a 2026-03-02 2026-03-01 queued']);
    // Ingest over HTTP starts the waiting run at once.
    app.setNow('2026-03-02T14:00:00Z');
    const header =
      'Company ID,Company Name,Feature ID,Feature Name,First Seen,Last Seen,First Used,Last Used,STARS State,Frequency,Satisfaction,Feedback Count,Segment Names,Segment IDs\n';
    t.equal((await app.ingest('acme', '2026-03-01', header)).status, 201);
    t.strictSame(await runs(), ['a 2026-03-02 2026-03-01 queued job']);
    await finishAll();

    // Insertion by SQL: the next tick finds the snapshot.
    await tick('2026-03-03T00:00:30Z');
    await ingested('2026-03-02');
    await tick('2026-03-03T00:01:30Z');
    t.strictSame((await runs())[1], 'a 2026-03-03 2026-03-02 queued job');
    await finishAll();

    await tick('2026-03-04T00:00:30Z');
    await tick('2026-03-04T23:59:30Z');
    t.strictSame((await runs())[2], 'a 2026-03-04 2026-03-03 queued');
    await ingested('2026-03-04');
    await tick('2026-03-05T00:00:10Z');
    t.strictSame((await runs()).slice(2), [
      'a 2026-03-04 2026-03-03 failed snapshot_missing',
      'a 2026-03-05 2026-03-04 queued job',
    ]);
  },
);

t.test(
  'holds back the next slot while a run is unfinished, then enqueues only the newest slot',
  async t => {
    const { tick, runs, finishAll } = await start({
      configs: [{ id: 'a', since: '2026-03-01T12:00:00Z' }],
      snapshots: ['2026-03-01', '2026-03-02', '2026-03-03'],
    });
    await tick('2026-03-02T00:00:30Z');
    await tick('2026-03-03T00:00:30Z');
    await tick('2026-03-04T00:00:30Z');
    t.strictSame(await runs(), ['a 2026-03-02 2026-03-01 queued job']);
    await finishAll();
    await tick('2026-03-04T00:01:30Z');
    t.strictSame(await runs(), [
      'a 2026-03-02 2026-03-01 successful',
      'a 2026-03-04 2026-03-03 queued job',
    ]);
  },
);

t.test('runs a slot only if the config was active before it', async t => {
  const { tick, runs } = await start({
    configs: [
      { id: 'just-before', since: '2026-03-03T23:59:59.999Z' },
      { id: 'at-the-slot', since: '2026-03-04T00:00:00.000Z' },
      { id: 'just-after', since: '2026-03-04T00:00:00.001Z' },
      { id: 'off', enabled: false },
    ],
    snapshots: ['2026-03-03', '2026-03-04'],
  });
  await tick('2026-03-04T00:00:20Z');
  t.strictSame(await runs(), ['just-before 2026-03-04 2026-03-03 queued job']);
  await tick('2026-03-05T00:00:20Z');
  t.strictSame(
    (await runs()).filter(run => !run.startsWith('just-before')),
    ['at-the-slot 2026-03-05 2026-03-04 queued job', 'just-after 2026-03-05 2026-03-04 queued job'],
  );
});

t.test('fails waiting runs and enqueues no new ones after a plan downgrade', async t => {
  const { tick, runs } = await start({
    configs: [{ id: 'a', since: '2026-03-01T12:00:00Z' }],
    snapshots: ['2026-03-02'],
  });
  await tick('2026-03-02T00:00:30Z');
  await app.putEnvironment('acme', 'pro');
  await tick('2026-03-03T00:00:30Z');
  t.strictSame(await runs(), ['a 2026-03-02 2026-03-01 failed plan_upgrade_required']);
  await app.putEnvironment('acme', 'enterprise');
  await tick('2026-03-03T08:00:00Z');
  t.strictSame((await runs())[1], 'a 2026-03-03 2026-03-02 queued job');
});

t.test('does not run a slot again when the clock goes back', async t => {
  const { tick, runs, finishAll } = await start({
    configs: [{ id: 'a', since: '2026-03-01T12:00:00Z' }],
    snapshots: ['2026-03-01', '2026-03-02', '2026-03-03'],
  });
  await tick('2026-03-04T00:00:30Z');
  await finishAll();
  await tick('2026-03-03T00:00:30Z');
  await tick('2026-03-04T00:00:30Z');
  t.strictSame(await runs(), ['a 2026-03-04 2026-03-03 successful']);
});

t.test('creates new jobs for unfinished runs when the job queue was emptied', async t => {
  const { tick, runs } = await start({
    configs: [{ id: 'a', since: '2026-03-01T12:00:00Z' }],
    snapshots: ['2026-03-01'],
  });
  await tick('2026-03-02T00:00:30Z');
  const jobId = async () => (await pool.query('select job_id from export_runs')).rows[0].job_id;
  const first = await jobId();
  await tick('2026-03-02T00:01:30Z');
  t.equal(await jobId(), first);
  await pool.query(`delete from pgboss.job where name = 'run-export'`);
  await tick('2026-03-02T00:02:30Z');
  t.strictSame(await runs(), ['a 2026-03-02 2026-03-01 queued job']);
  t.not(await jobId(), first);
});

t.test('fails a manual run whose snapshot was removed, without holding back slots', async t => {
  const { tick } = await start({
    configs: [{ id: 'a', since: '2026-03-01T12:00:00Z' }],
    snapshots: ['2026-03-01'],
  });
  await pool.query(
    `insert into export_runs (environment_id, config_id, id, trigger, snapshot_date, state, created_at)
     values ('acme', 'a', 'by-hand', 'manual', '2026-02-20', 'queued', now())`,
  );
  t.strictSame(await tick('2026-03-02T00:00:30Z'), {
    added: 1,
    redelivered: 0,
    backfilled: 0,
    sent: 1,
    failed: 1,
    switchedOff: 0,
  });
  t.match((await pool.query(`select * from export_runs where id = 'by-hand'`)).rows[0], {
    state: 'failed',
    error_code: 'snapshot_missing',
    error_message: 'There is no snapshot of 2026-02-20 any more.',
  });
});

t.test('neither blocks nor fails a tick on a config that is being deleted', async t => {
  const { tick, runs } = await start({
    configs: [{ id: 'a' }, { id: 'b' }],
    snapshots: ['2026-03-03'],
  });
  const remover = await pool.connect();
  t.teardown(() => remover.release(true));
  await remover.query('begin');
  await remover.query(`delete from export_configs where id = 'a'`);
  t.match(await tick('2026-03-04T00:00:00Z'), { added: 1, redelivered: 0, backfilled: 0, sent: 1 });
  t.strictSame(await runs(), ['b 2026-03-04 2026-03-03 queued job']);
  await remover.query('rollback');
  t.match(
    await tick('2026-03-04T00:01:00Z'),
    { added: 1 },
    'the slot is run once the deletion is rolled back',
  );
});

// A deletion of the environment locks configs, then their runs. Then it waits for the rows that the
// tick has locked.
for (const { what, insert, locked, done } of [
  {
    what: 'redelivery',
    insert: `update export_configs set redeliver = true;
      insert into export_runs (environment_id, config_id, id, trigger, slot, snapshot_date, snapshot_version, state, created_at, finished_at)
      values ('acme', 'a', 'r', 'schedule', '2026-03-02T00:00:00Z', '2026-03-01', gen_random_uuid(), 'successful', now(), now());
      insert into redelivery_checks (environment_id, config_id) values ('acme', 'a')`,
    locked: 'export_configs',
    done: `select from export_runs where trigger = 'redelivery'`,
  },
  {
    what: 'backfill',
    insert: `insert into export_runs (environment_id, config_id, id, trigger, slot, snapshot_date, state, created_at, finished_at)
      values ('acme', 'a', 'r', 'schedule', '2026-03-02T00:00:00Z', '2026-03-01', 'successful', now(), now());
      insert into backfills (environment_id, config_id, id, from_date, to_date, total, pending_dates, created_at)
      values ('acme', 'a', 'b', '2026-03-01', '2026-03-01', 1, '{2026-03-01}', now())`,
    locked: 'export_configs',
    done: `select from export_runs where trigger = 'backfill'`,
  },
  {
    what: 'hidden config',
    insert: 'update export_configs set enabled = false, deleted_at = now()',
    locked: 'export_configs',
    done: 'select where not exists (select from export_configs)',
  },
  {
    what: 'run of a lowered plan',
    insert: `update environments set plan = 'free';
      insert into export_runs (environment_id, config_id, id, trigger, slot, snapshot_date, state, created_at)
      values ('acme', 'a', 'r', 'schedule', '2026-03-02T00:00:00Z', '2026-03-01', 'queued', now())`,
    locked: 'export_runs',
    done: `select from export_runs where error_code = 'plan_upgrade_required'`,
  },
  {
    what: 'run without its job',
    insert: `insert into export_runs (environment_id, config_id, id, trigger, slot, snapshot_date, state, job_id, created_at)
      values ('acme', 'a', 'r', 'schedule', '2026-03-02T00:00:00Z', '2026-03-01', 'queued', gen_random_uuid(), now())`,
    locked: 'export_runs',
    done: 'select from export_runs as run join pgboss.job on job.id = run.job_id',
  },
]) {
  t.test(`does not wait with a ${what} for the deletion of the environment`, async t => {
    const { tick } = await start({ snapshots: ['2026-03-01'] });
    await pool.query(insert);
    const remover = await pool.connect();
    t.teardown(() => remover.release(true));
    await remover.query(`begin; select from ${locked} for update`);
    let isDone = false;
    const ticking = tick('2026-03-02T10:00:00Z').finally(() => {
      isDone = true;
    });
    const isBlocked = async () => {
      const { rowCount } = await pool.query(
        `select from pg_stat_activity
         where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0`,
      );
      return rowCount === 1;
    };
    await waitFor('the end of the tick, or its wait', async () => isDone || (await isBlocked()));
    t.ok(isDone, 'the tick does not wait');
    await remover.query('rollback');
    await ticking;
    t.equal((await pool.query(done)).rowCount, 0);
    await tick('2026-03-02T10:01:00Z');
    t.equal((await pool.query(done)).rowCount, 1, 'the next tick does it');
  });
}

t.test('answers not_found for a manual run of a config that was deleted meanwhile', async t => {
  await start({ configs: [], snapshots: ['2026-03-01'] });
  const wanted = { environmentId: 'acme', configId: 'gone', snapshotDate: null, now: new Date() };
  await t.rejects(
    app.dependencies.db
      .transaction()
      .execute(trx => insertManualRun(trx, systemActor('test'), wanted)),
    { code: 'not_found' },
  );
});

t.test('handles 3,000 due configs and waiting runs fast, with and without statistics', async t => {
  const { tick } = await start({ configs: [] });
  const startedAt = performance.now();
  await pool.query(
    `insert into environments (id, name, plan)
     select 'e' || n, 'e', 'enterprise' from generate_series(1, 600) as n`,
  );
  await pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
       access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at)
     select 'e' || n, 'c' || k, 'c', true, 'daily', 'custom', 'b', 'r', '', 'https://s3.example.com', 'id', 'sealed', 'none', false, now, now, now
     from generate_series(1, 600) as n, generate_series(1, 5) as k, (select timestamptz '2026-03-03T12:00:00Z') as at (now)`,
  );
  // Ticks are compared with this time, because machines differ.
  const insertSeconds = (performance.now() - startedAt) / 1000;
  await pool.query(
    `insert into failure_webhooks (environment_id, url, sealed_secret)
     select 'e' || n, 'https://hooks.example.com/', 'sealed' from generate_series(1, 600) as n;
     insert into snapshots (environment_id, snapshot_date, row_count)
     select 'e' || n, '2026-03-03', 0 from generate_series(1, 600) as n`,
  );
  // Analyzes the tables of runs and jobs while they are empty. The planner then expects no rows,
  // even when the tables grow.
  await pool.query(
    `insert into export_runs (environment_id, config_id, id, trigger, slot, snapshot_date, state, created_at)
     values ('e1', 'c1', 'r', 'schedule', '2026-03-03', '2026-03-02', 'queued', '2026-03-03')`,
  );
  await app.dependencies.jobs.send(tickQueue, {});
  const forgetRuns = () => pool.query('delete from export_runs; delete from pgboss.job');
  await forgetRuns();
  await pool.query('analyze export_runs, pgboss.job');

  const none = { added: 0, redelivered: 0, backfilled: 0, sent: 0, failed: 0, switchedOff: 0 };
  const expectTick = async (now: string, moved: object = {}) => {
    const expected = { ...none, ...moved };
    const limit = insertSeconds * (expected.added > 0 ? 100 : 10);
    // Only a tick without work can be repeated.
    const seconds = await lowestOf(expected.added > 0 ? 1 : 3, limit, async () => {
      const startedAt = performance.now();
      t.strictSame(await tick(now), expected, now);
      return (performance.now() - startedAt) / 1000;
    });
    t.ok(seconds < limit, `${now}: ${seconds.toFixed(2)} s, at most ${limit.toFixed(2)} s`);
  };
  await expectTick('2026-03-04T00:00:01Z', { added: 3_000, sent: 3_000 });
  await expectTick('2026-03-04T00:01:01Z');
  const { rows } = await pool.query(
    `select data, group_id from pgboss.job where name = 'run-export' limit 1`,
  );
  t.strictSame(
    Object.keys(rows[0].data).sort(),
    ['configId', 'environmentId', 'runId'],
    'job data contains only ids',
  );
  t.equal(rows[0].group_id, rows[0].data.environmentId);

  // No snapshot of these days exists, so the runs wait.
  await forgetRuns();
  await expectTick('2026-03-05T00:00:01Z', { added: 3_000 });
  await expectTick('2026-03-05T00:01:01Z');
  await pool.query('analyze');
  await expectTick('2026-03-05T00:02:01Z');
  await expectTick('2026-03-06T00:00:01Z', { added: 3_000, failed: 3_000 });
  await expectTick('2026-03-06T00:01:01Z');
});

/**
 * Missed slots, replaced snapshots and backfills with a real database. No worker executes the runs.
 * 2026-03-02 is a Monday.
 */
t.test('catches up on missed days', async t => {
  t.setTimeout(600_000);

  const path = '/v1/environments/acme/export-configs/a';
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
    t.strictSame(await drain('2026-03-05T09:02:00Z'), [
      'schedule 2026-03-03',
      'schedule 2026-03-04',
    ]);
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
    t.strictSame(await drain('2026-03-03T00:01:00Z'), [
      'backfill 2026-02-11',
      'backfill 2026-02-12',
    ]);
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
});
