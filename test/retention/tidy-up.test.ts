import t from 'tap';
import { systemActor } from '../../src/audit/audit-log.ts';
import { insertManualRun } from '../../src/export-runs/repository.ts';
import { aggregations } from '../../src/exports/aggregations.ts';
import { neededDates } from '../../src/retention/needed-dates.ts';
import { tidyUp } from '../../src/retention/tidy-up.ts';
import { adoptionRow, loadBody } from '../helpers/adoption-rows.ts';
import { startTestApp, testNow } from '../helpers/app.ts';
import { daysBefore } from '../helpers/days.ts';
import { fillSnapshot } from '../helpers/fill-snapshot.ts';
import { nightsUntilDropped, untilRowsAreQuiet } from '../helpers/nights.ts';
import { eventually } from '../helpers/raw-http.ts';

const today = testNow.slice(0, 10);
const settings = { snapshots: 'needed', runDays: 90, auditDays: 400 } as const;
const never = new AbortController().signal;

/** A service with snapshots, and the means to look at them. */
async function start(t: Parameters<typeof startTestApp>[0]) {
  const app = await startTestApp(t);
  const { pool } = app.database;
  await app.putEnvironment('acme', 'pro');
  await app.putEnvironment('other', 'pro');
  const list = async (query: string) =>
    (await pool.query(query)).rows.map(row => Object.values(row).join(' '));
  return {
    app,
    pool,
    fill: async (environmentId: string, days: readonly string[]) => {
      for (const day of days) await fillSnapshot(pool, environmentId, day, 3);
    },
    tidy: (now = testNow) => tidyUp(app.dependencies.db, settings, new Date(now), never),
    registered: () =>
      list('select environment_id, snapshot_date::text from snapshots order by 1, 2'),
    stored: () =>
      list('select distinct environment_id, snapshot_date::text from snapshot_rows order by 1, 2'),
    partitions: () =>
      list(`select right(inhrelid::regclass::text, 8) as day from pg_inherits
            where inhparent = 'snapshot_rows'::regclass and not inhdetachpending order by 1`),
    tables: () =>
      list(
        `select right(relname, 8) from pg_class where relname ~ '^snapshot_rows_[0-9]+$' order by 1`,
      ),
    audited: () =>
      list(
        `select environment_id, target_id, actor_kind, actor_id from audit_log where action = 'snapshot.deleted' order by 1, 2`,
      ),
  };
}

const compact = (day: string) => day.replaceAll('-', '');

t.test('what no export shows goes, with its partition; every export stays as it was', async t => {
  const { app, pool, fill, tidy, ...look } = await start(t);
  const daily = Array.from({ length: 230 }, (_, index) => daysBefore(today, index)).filter(
    (_, index) => index < 40 || index % 3 === 0,
  );
  const rare = [
    daysBefore(today, 500),
    daysBefore(today, 219),
    daysBefore(today, 300),
    daysBefore(today, 199),
  ];
  await fill('acme', daily);
  await fill('other', rare);
  const download = async () =>
    await Promise.all(
      aggregations.flatMap(aggregation =>
        ['acme', 'other'].map(async id => (await app.download(id, aggregation)).text),
      ),
    );
  const before = await download();
  await untilRowsAreQuiet(pool);
  const done = await tidy();
  t.strictSame(await download(), before);
  await untilRowsAreQuiet(pool);

  const kept = [
    ...neededDates(today, daily).map(day => `acme ${day}`),
    ...neededDates(today, rare).map(day => `other ${day}`),
  ];
  t.strictSame(await look.registered(), kept);
  t.strictSame(await look.stored(), kept);
  const days = [...new Set(kept.map(line => compact(line.slice(-10))))].sort();
  t.strictSame(await look.partitions(), days);
  t.strictSame(await look.tables(), days);
  const all = [...daily.map(day => `acme ${day}`), ...rare.map(day => `other ${day}`)];
  const gone = all.filter(line => !kept.includes(line)).sort();
  t.ok(gone.length > 40);
  t.strictSame(
    await look.audited(),
    gone.map(line => `${line} system retention`),
  );
  t.match(done, {
    snapshots: gone.length,
    partitions: { unregistered: [] },
    runs: 0,
    auditLines: 0,
  });
  t.equal(
    done.partitions.dropped,
    all.length - kept.length - (all.length - new Set(all.map(l => l.slice(-10))).size),
  );

  t.match(await tidy(), { snapshots: 0, days: 0, partitions: { dropped: 0 } }, 'again is nothing');
  t.strictSame(
    await look.audited(),
    gone.map(line => `${line} system retention`),
  );

  const late = gone[0]?.slice(-10) ?? '';
  t.equal(
    (await app.load('acme', late, loadBody([adoptionRow()]))).status,
    201,
    'a late load makes the day anew',
  );
  t.ok((await look.partitions()).includes(compact(late)));
  t.match(await nightsUntilDropped(tidy, 1), { snapshots: 1, days: 1, dropped: 1 });
});

t.test('a day that somebody needs loses only what nobody does', async t => {
  const { app, pool, fill, tidy, ...look } = await start(t);
  const day = '2025-06-04';
  await fill('acme', [day, '2025-06-05', today]);
  // The newest that it has.
  await fill('other', [day]);
  t.match(await nightsUntilDropped(tidy, 1), { snapshots: 2, days: 1, dropped: 1 });
  t.strictSame(await look.stored(), [`acme ${today}`, `other ${day}`]);
  t.match((await app.download('other', 'today')).headers, { 'x-total-rows': '3' });
  await app.call('/v1/environments/other', { method: 'DELETE' });
  await untilRowsAreQuiet(pool);
  t.match(
    await nightsUntilDropped(tidy, 1),
    { snapshots: 0, dropped: 1 },
    'and is dropped once it is empty',
  );
  t.strictSame(await look.partitions(), [compact(today)]);
});

t.test('a day of which little is left gives its disk back', async t => {
  const { app, pool, fill, tidy, ...look } = await start(t);
  const day = '2025-06-04';
  await fillSnapshot(pool, 'acme', day, 150_000);
  await fill('other', [day]);
  await fill('acme', ['2025-06-05', today]);
  const reader = await pool.connect();
  await reader.query('begin');
  await reader.query(
    `select from snapshot_rows where environment_id = 'acme' and snapshot_date = '${today}'`,
  );
  const sizeMb = async () =>
    (await pool.query(`select pg_table_size('snapshot_rows_20250604')::int / 1000000 as mb`))
      .rows[0].mb;
  const full = await sizeMb();
  t.ok(full > 16);
  const view = await pool.connect();
  await view.query('begin isolation level repeatable read; select');
  t.match(await tidy(), { snapshots: 2, shrunk: 0 });
  t.ok((await sizeMb()) >= full, 'while somebody may still see the rows, they keep their disk');
  await view.query('commit');
  view.release();
  // Autovacuum, too, may have a view open for a moment.
  await eventually(async () => (await tidy()).shrunk === 1, 'a day that became smaller');
  t.equal(await sizeMb(), 0);
  await reader.query('commit');
  reader.release();
  t.match(await tidy(), { snapshots: 0, shrunk: 0 });
  t.strictSame(await look.stored(), [`acme ${today}`, `other ${day}`]);
  t.equal((await app.download('other', 'today')).headers['x-total-rows'], '3');
});

t.test('all: nothing goes', async t => {
  const { app, fill, ...look } = await start(t);
  await fill('acme', ['2024-01-01', '2024-01-02', today]);
  const done = await tidyUp(
    app.dependencies.db,
    { ...settings, snapshots: 'all' },
    new Date(testNow),
    never,
  );
  t.match(done, { snapshots: 0, days: 0, partitions: { dropped: 0 } });
  t.equal((await look.registered()).length, 3);
});

t.test('rows that no snapshot owns are left, told, and keep their partition', async t => {
  const { app, pool, fill, tidy, ...look } = await start(t);
  const day = '2025-06-04';
  await fill('acme', [day, today]);
  await fill('other', [day, today]);
  await pool.query(`delete from snapshots where environment_id = 'other' and snapshot_date = $1`, [
    day,
  ]);
  t.strictSame(await tidy(), {
    snapshots: 1,
    days: 0,
    partitions: { dropped: 0, unregistered: [day] },
    shrunk: 0,
    runs: 0,
    auditLines: 0,
  });
  t.strictSame(await look.stored(), [`acme ${today}`, `other ${day}`, `other ${today}`]);
  await app.call(`/v1/environments/other`, { method: 'DELETE' });
  t.match(await nightsUntilDropped(tidy, 1), { dropped: 1 });
});

t.test('a day that is just being filled by SQL is left as it is', async t => {
  const { pool, fill, tidy, ...look } = await start(t);
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
  t.match(await tidy(), { snapshots: 1, days: 0, partitions: { dropped: 0 } });
  await filler.query(
    `insert into snapshots (environment_id, snapshot_date, row_count) values ('other', $1, 3)`,
    [day],
  );
  await filler.query('commit');
  filler.release();
  t.strictSame(await look.stored(), [`acme ${today}`, `other ${day}`]);
  t.strictSame(await look.registered(), [`acme ${today}`, `other ${day}`]);
  t.match(await tidy(), { snapshots: 0, partitions: { dropped: 0, unregistered: [] } });
});

t.test('what a run has still to read stays until the run is over', async t => {
  const { app, pool, fill, tidy, ...look } = await start(t);
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
  // Asked for and not yet committed: the same moment.
  await db.transaction().execute(async trx => {
    await insertManualRun(trx, systemActor('test'), wanted);
    t.match(await tidy(), { snapshots: 0 });
  });
  for (const state of ['queued', 'running']) {
    await pool.query('update export_runs set state = $1', [state]);
    t.match(await tidy(), { snapshots: 0 }, state);
  }
  t.strictSame(await look.stored(), [`acme ${day}`, `acme ${today}`]);
  await pool.query(`update export_runs set state = 'successful', finished_at = now()`);
  t.match(await nightsUntilDropped(tidy, 1), { snapshots: 1, days: 1, dropped: 1 });
  const tooLate = db
    .transaction()
    .execute(trx => insertManualRun(trx, systemActor('test'), wanted));
  await t.rejects(tooLate, { code: 'not_found' });
});

t.test('a clock that is far ahead removes nothing that is needed by the database’s', async t => {
  const { fill, tidy, ...look } = await start(t);
  const day = new Date().toISOString().slice(0, 10);
  await fill('acme', [daysBefore(day, 5), day]);
  const nextYear = new Date(Date.now() + 365 * 24 * 60 * 60 * 1000).toISOString();
  t.match(await tidy(nextYear), { snapshots: 0 });
  t.equal((await look.registered()).length, 2);
});

t.test('what fails keeps nothing else from being done, and is told', async t => {
  const { pool, tidy } = await start(t);
  await pool.query(
    `insert into audit_log (at, actor_kind, action, details) values ('2020-01-01', 'operator', 'old', '{}')`,
  );
  await pool.query('create table snapshot_rows_99999999 ()');
  await t.rejects(tidy(), { code: '22008' }, 'no such day');
  t.equal((await pool.query(`select from audit_log where action = 'old'`)).rowCount, 0);
});

t.test('ended in the middle, the next night goes on', async t => {
  const { app, fill, tidy, ...look } = await start(t);
  await fill('acme', ['2025-06-03', '2025-06-04', today]);
  const ended = await tidyUp(app.dependencies.db, settings, new Date(testNow), AbortSignal.abort());
  t.match(ended, { snapshots: 0, partitions: { dropped: 0 } });
  const nights = await Promise.all([tidy(), tidy()]);
  await tidy();
  t.equal(
    nights.reduce((sum, { snapshots }) => sum + snapshots, 0),
    2,
    'two at once do no harm',
  );
  t.strictSame(await look.partitions(), [compact(today)]);
  t.equal((await look.audited()).length, 2);
});
