import t from 'tap';
import { systemActor } from '../../src/audit/audit-log-repository.ts';
import { retentionQueue } from '../../src/db/job-queue.ts';
import { insertManualRun } from '../../src/export-runs/repository.ts';
import { tidyUp } from '../../src/retention/tidy-up.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { testNow } from '../helpers/app.ts';
import { daysBefore } from '../helpers/days.ts';
import { startExportWorker } from '../helpers/export-configs.ts';
import { neededDates } from '../helpers/needed-dates.ts';
import { retentionSettings, startWithSnapshots } from '../helpers/retention.ts';
import { waitFor } from '../helpers/wait-for.ts';

const today = testNow.slice(0, 10);
const { app, pool, reset, fill, tidy, render, ...look } = await startWithSnapshots(t);
t.beforeEach(reset);

t.test('removes nothing with `all`', async t => {
  await fill('acme', ['2024-01-01', '2024-01-02', today]);
  await render();
  const done = await tidyUp(
    app.dependencies.db,
    { ...retentionSettings, snapshots: 'all' },
    new Date(testNow),
    new AbortController().signal,
  );
  t.match(done, { partitions: 0, snapshots: 0 });
  t.equal((await look.registered()).length, 3);
  t.equal((await look.stored()).length, 3);
});

t.test(
  'removes nothing that the database’s clock still needs when the worker’s is ahead',
  async t => {
    const day = new Date().toISOString().slice(0, 10);
    await fill('acme', [daysBefore(day, 5), day]);
    const nextYear = new Date(Date.now() + 365 * 24 * 60 * 60 * 1000).toISOString();
    t.match(await tidy(nextYear), { snapshots: 0 });
    t.equal((await look.registered()).length, 2);
  },
);

t.test('does all other work before it reports an error', async t => {
  await pool.query(
    `insert into audit_log (at, actor_kind, action, details) values ('2020-01-01', 'operator', 'old', '{}')`,
  );
  await pool.query('create table snapshot_rows_99999999 ()');
  await t.rejects(tidy(), { code: '22008' }, 'no such day');
  t.equal((await pool.query(`select from audit_log where action = 'old'`)).rowCount, 0);
});

t.test('continues after an abort, and tolerates two nightly jobs at once', async t => {
  await fill('acme', ['2025-06-03', '2025-06-04', today]);
  const ended = await tidyUp(
    app.dependencies.db,
    retentionSettings,
    new Date(testNow),
    AbortSignal.abort(),
  );
  t.match(ended, { partitions: 0, snapshots: 0 });
  await Promise.all([tidy(), tidy()]);
  await tidy();
  t.strictSame(await look.registered(), [`acme ${today}`]);
  t.strictSame(await look.partitions(), [today.replaceAll('-', '')]);
  t.equal((await look.audited()).length, 2);
});

t.test('deletes old runs, except the runs that other features need', async t => {
  await app.putEnvironment('acme', 'enterprise');
  await pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
       access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at)
     select 'acme', id, id, true, 'daily', 'custom', 'b', 'r', '', 'https://s3.example.com', 'id', 's', 'none', false, now(), now(), now()
     from unnest($1::text[]) as id`,
    [['busy', 'asleep']],
  );
  const runs: readonly [
    config: string,
    id: string,
    slotDaysAgo: number | null,
    state: string,
    finishedDaysAgo: number | null,
  ][] = [
    ['busy', 'old failure', 200, 'failed', 200],
    ['busy', 'old success', 199, 'successful', 199],
    ['busy', 'old by hand', null, 'successful', 150],
    ['busy', 'just old enough', 91, 'failed', 90.001],
    ['busy', 'just too young', 90, 'failed', 89.999],
    ['busy', 'last', 1, 'successful', 1],
    ['busy', 'waits', 0, 'queued', null],
    ['asleep', 'first', 304, 'successful', 304],
    ['asleep', 'last success', 303, 'successful', 303],
    ['asleep', 'newest slot', 302, 'failed', 302],
    ['asleep', 'between', null, 'failed', 301],
    ['asleep', 'last finished', null, 'failed', 300],
    ['asleep', 'to be cleaned up', null, 'failed', 305],
  ];
  for (const [config, id, slot, state, finished] of runs) {
    await pool.query(
      `insert into export_runs (environment_id, config_id, id, trigger, slot, snapshot_date, state, created_at, finished_at, error_code, error_message, job_id)
       values ('acme', $1, $2, $3, date_trunc('day', $6::timestamptz at time zone 'UTC') at time zone 'UTC' - $4::int * interval '1 day', '2025-01-01', $5, $6,
         $6::timestamptz - $7::float8 * interval '1 day', $8, $8, $9)`,
      [
        config,
        id,
        slot === null ? 'manual' : 'schedule',
        slot,
        state,
        testNow,
        finished,
        state === 'failed' ? 'unknown' : null,
        id === 'to be cleaned up' ? '9b2f6f0e-8c43-4f0e-9d27-6d8a4f1f7a55' : null,
      ],
    );
  }
  const statuses = async () => (await app.call('/v1/environments/acme/export-configs')).json;
  const before = await statuses();
  t.match(await tidy(), { runs: 6 });
  t.strictSame(await statuses(), before);
  const { rows } = await pool.query('select id from export_runs order by id');
  t.strictSame(
    rows.map(({ id }) => id),
    [
      'just too young',
      'last',
      'last finished',
      'last success',
      'newest slot',
      'to be cleaned up',
      'waits',
    ],
  );
  const told = await app.call('/v1/audit-log?action=export_runs.expired');
  t.match(told.json.items, [
    {
      actor: { kind: 'system', id: 'retention' },
      environmentId: null,
      details: { count: 6, before: '2025-12-02T10:00:00.000Z' },
    },
  ]);
  t.match(await tidy(), { runs: 0 });
  t.equal((await app.call('/v1/audit-log?action=export_runs.expired')).json.items.length, 1);
});

t.test('deletes old lines of the audit log in batches', async t => {
  await pool.query('delete from audit_log');
  await pool.query(
    `insert into audit_log (at, actor_kind, action, details)
     select $1::timestamptz - n * interval '1 hour', 'operator', 'environment.created', '{}' from generate_series(1, 16000) as n`,
    [testNow],
  );
  const done = await tidy();
  t.equal(done.auditLines, 16_000 - 9_600);
  const { rows } = await pool.query(
    `select action, count(*)::int as lines, sum((details ->> 'count')::int)::int as told, min(at) as oldest from audit_log group by action order by action`,
  );
  t.match(rows, [
    { action: 'audit_log.expired', lines: 2, told: 6_400 },
    { action: 'environment.created', lines: 9_600, oldest: new Date('2025-01-26T10:00:00.000Z') },
  ]);
});

t.test('runs one retention job at a time, every night', async t => {
  const { jobs } = app.dependencies;
  await fill('acme', ['2025-06-04', '2025-06-05', '2026-03-02']);
  await pool.query('delete from snapshots where snapshot_date = $1', ['2025-06-04']);

  t.ok(await jobs.send(retentionQueue), 'another process queued the job');
  t.equal(await jobs.send(retentionQueue), null, 'never two');
  startExportWorker(t, app);
  await waitFor('the end of the nightly job', () =>
    app.log.some(({ msg }) => msg === 'retention finished'),
  );
  t.match(
    app.log.find(({ msg }) => msg === 'retention finished'),
    { level: 30, snapshots: 1, partitions: 1, runs: 0, auditLines: 0 },
  );
  t.match(
    app.log.find(({ msg }) => String(msg).startsWith('old days kept: rows')),
    { level: 40, days: ['2025-06-04'] },
  );
  await waitFor('a schedule', async () => (await jobs.getSchedules(retentionQueue)).length === 1);
  t.match(await jobs.getSchedules(retentionQueue), [
    { cron: '30 3 * * *', timezone: 'UTC', options: { missed: 'once' } },
  ]);
});

const compact = (day: string) => day.replaceAll('-', '');

t.test('drops the rows of rendered days and deletes snapshots that no export can show', async t => {
  const daily = Array.from({ length: 230 }, (_, index) => daysBefore(today, index)).filter(
    (_, index) => index % 9 === 0 || (index > 27 && index < 36),
  );
  const rare = [500, 300, 219, 199].map(count => daysBefore(today, count));
  await fill('acme', daily);
  await fill('other', rare);
  await render();
  const kept = [
    ...neededDates(today, daily).map(day => `acme ${day}`),
    ...neededDates(today, rare).map(day => `other ${day}`),
  ];
  const before = await look.rendered();
  const done = await tidy();

  t.strictSame(await look.registered(), kept);
  t.strictSame(
    await look.rendered(),
    before.filter(line => kept.some(snapshot => line.startsWith(snapshot))),
    'the kept snapshots still have their chunks',
  );
  const recent = daily.filter(day => day >= daysBefore(today, 31)).toSorted();
  t.strictSame(
    await look.stored(),
    recent.map(day => `acme ${day}`),
  );
  t.strictSame(await look.partitions(), recent.map(compact));
  t.strictSame(await look.tables(), recent.map(compact));
  const all = [...daily.map(day => `acme ${day}`), ...rare.map(day => `other ${day}`)];
  const gone = all.filter(line => !kept.includes(line)).toSorted();
  t.ok(gone.length > 10);
  const audited = gone.map(line => `${line} system retention`);
  t.strictSame(await look.audited(), audited);
  t.strictSame(done, {
    partitions: new Set([...daily, ...rare]).size - recent.length,
    snapshots: gone.length,
    unrendered: [],
    unregistered: [],
    runs: 0,
    auditLines: 0,
  });

  t.match(await tidy(), { partitions: 0, snapshots: 0 }, 'a second night removes nothing');
  t.strictSame(await look.audited(), audited);

  const late = gone[0]?.slice(-10) ?? '';
  t.equal((await app.ingest('acme', late, ingestBody([adoptionRow()]))).status, 201);
  t.strictSame(
    await look.partitions(),
    [late, ...recent].map(compact),
    'a late ingest creates the partition',
  );
  t.match(await tidy(), { partitions: 1, snapshots: 1 });
});

t.test('deletes a snapshot of a dropped day once no export can show it', async t => {
  const day = '2025-12-07';
  await fill('acme', [day, today]);
  await render();
  t.match(await tidy(), { partitions: 1, snapshots: 0 });
  await fill('acme', ['2026-06-05']);
  t.match(await tidy('2026-06-05T10:00:00.000Z'), { snapshots: 0 });
  t.match(await tidy('2026-06-15T10:00:00.000Z'), { snapshots: 1, unrendered: [] });
  t.strictSame(await look.registered(), [`acme ${today}`, 'acme 2026-06-05']);
  t.strictSame(await look.audited(), [`acme ${day} system retention`]);
});

t.test('keeps the rows of a day until each snapshot that is needed is rendered', async t => {
  const day = '2025-06-04';
  await fill('acme', [day, today]);
  await fill('other', [day]);
  t.match(await tidy(), { partitions: 0, snapshots: 0, unrendered: [day] });
  t.strictSame(await look.stored(), [`acme ${day}`, `acme ${today}`, `other ${day}`]);
  await render(new Date(Date.parse(testNow) - 23 * 60 * 60 * 1000));
  t.match(await tidy(), { partitions: 0, snapshots: 0, unrendered: [] }, 'rendered just now');
  await pool.query('delete from rendered_snapshots');
  await render(new Date(Date.parse(testNow) - 25 * 60 * 60 * 1000));
  t.match(await tidy(), { partitions: 1, snapshots: 1, unrendered: [] });
  t.strictSame(await look.registered(), [`acme ${today}`, `other ${day}`]);
  t.strictSame(await look.stored(), [`acme ${today}`]);
});

t.test('drops a day whose snapshots are unneeded, rendered or not', async t => {
  await fill('acme', ['2025-06-03', '2025-06-04', today]);
  t.match(await tidy(), { partitions: 2, snapshots: 2, unrendered: [] });
  t.strictSame(await look.stored(), [`acme ${today}`]);
});

t.test('keeps a replaced version of a dropped day until it is rendered', async t => {
  const day = '2025-06-04';
  await fill('acme', [day]);
  await fill('other', [day]);
  await render();
  t.match(await tidy(), { partitions: 1, snapshots: 0 });
  const [acme, other] = await look.rendered();
  t.equal((await app.ingest('acme', day, ingestBody([adoptionRow()]))).status, 200);
  t.strictSame(await look.rendered(), [other]);
  t.match(await tidy(), { partitions: 0, unrendered: [day] });
  t.strictSame(await look.stored(), [`acme ${day}`]);
  await render();
  t.match(await tidy(), { partitions: 1, snapshots: 0, unrendered: [] });
  t.strictSame(await look.stored(), []);
  const [replaced, ...rest] = await look.rendered();
  t.not(replaced, acme);
  t.strictSame(rest, [other]);
});

t.test('keeps and reports rows that belong to no registered snapshot', async t => {
  const day = '2025-06-04';
  await fill('acme', [day, today]);
  await fill('other', [day, today]);
  await render();
  await pool.query(`delete from snapshots where environment_id = 'other' and snapshot_date = $1`, [
    day,
  ]);
  t.match(await tidy(), { partitions: 0, snapshots: 0, unregistered: [day] });
  t.strictSame(await look.stored(), [
    `acme ${day}`,
    `acme ${today}`,
    `other ${day}`,
    `other ${today}`,
  ]);
  await app.call(`/v1/environments/other`, { method: 'DELETE' });
  t.match(await tidy(), { partitions: 1, snapshots: 1, unregistered: [] });
});

t.test('keeps rows of an environment that does not exist yet', async t => {
  const day = '2025-06-04';
  await fill('acme', [day, today]);
  await pool.query(`update snapshot_rows set environment_id = 'planned' where snapshot_date = $1`, [
    day,
  ]);
  t.match(await tidy(), { partitions: 0, unregistered: [day] });
  t.strictSame(await look.stored(), [`acme ${today}`, `planned ${day}`]);
});

t.test('keeps a day that is being filled by SQL', async t => {
  const day = '2025-06-04';
  await fill('acme', [day, today]);
  const filler = await pool.connect();
  await filler.query('begin');
  await filler.query(
    `select pg_advisory_xact_lock(hashtextextended('warehouse-export snapshot other ${day}', 0))`,
  );
  await filler.query(
    `insert into snapshot_rows select 'other', snapshot_date, company_id, company_name, feature_id, feature_name, first_seen, last_seen,
       first_used, last_used, stars_state, frequency, satisfaction, feedback_count from snapshot_rows where snapshot_date = $1`,
    [day],
  );
  t.match(await tidy(testNow, 1), { partitions: 0, snapshots: 0 });
  await filler.query(
    `insert into snapshots (environment_id, snapshot_date, row_count) values ('other', $1, 3)`,
    [day],
  );
  await filler.query('commit');
  filler.release();
  t.match(await tidy(), { partitions: 0, unrendered: [day], unregistered: [] });
  t.strictSame(await look.stored(), [`acme ${day}`, `acme ${today}`, `other ${day}`]);
});

t.test('keeps a snapshot that a run has to read until the run ends', async t => {
  const { db } = app.dependencies;
  const day = '2025-06-04';
  await fill('acme', [day, today]);
  await pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
       access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at)
     values ('acme', 'c', 'c', true, 'daily', 'custom', 'b', 'r', '', 'https://s3.example.com', 'id', 's', 'none', false, now(), now(), now())`,
  );
  const wanted = {
    environmentId: 'acme',
    configId: 'c',
    snapshotDate: day,
    now: new Date(testNow),
  };
  // A run that is requested in a transaction without a commit yet.
  await db.transaction().execute(async trx => {
    await insertManualRun(trx, systemActor('test'), wanted);
    t.match(await tidy(), { snapshots: 0 });
  });
  for (const state of ['queued', 'running']) {
    await pool.query('update export_runs set state = $1', [state]);
    t.match(await tidy(), { snapshots: 0 }, state);
  }
  t.strictSame(await look.stored(), [`acme ${day}`, `acme ${today}`]);
  await render();
  t.match(await tidy(), { partitions: 1, snapshots: 0 }, 'a run needs only chunks');
  t.strictSame(await look.registered(), [`acme ${day}`, `acme ${today}`]);
  await pool.query(`update export_runs set state = 'successful', finished_at = now()`);
  t.match(await tidy(), { partitions: 0, snapshots: 1 });
  const tooLate = db
    .transaction()
    .execute(trx => insertManualRun(trx, systemActor('test'), wanted));
  await t.rejects(tooLate, { code: 'not_found' });
});
