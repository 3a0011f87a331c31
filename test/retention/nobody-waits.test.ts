import t from 'tap';
import { tidyUp } from '../../src/retention/tidy-up.ts';
import { adoptionRow, exportHeader, exportPart, loadBody } from '../helpers/adoption-rows.ts';
import { startTestApp, testNow } from '../helpers/app.ts';
import { fillSnapshot } from '../helpers/fill-snapshot.ts';
import { nightsUntilDropped, untilRowsAreQuiet } from '../helpers/nights.ts';
import { eventually } from '../helpers/raw-http.ts';
import { slowExport, slowLoad } from '../helpers/slow-transfers.ts';
import { writeWideSnapshot } from '../helpers/wide-snapshot.ts';

/** Retention beside exports and loads: nobody waits for it, and it waits for nobody. */

const today = testNow.slice(0, 10);
const settings = { snapshots: 'needed', runDays: 90, auditDays: 400 } as const;
const app = await startTestApp(t);
const { pool } = app.database;
for (const id of ['one', 'two']) await app.putEnvironment(id, 'pro');
const tidy = () =>
  tidyUp(app.dependencies.db, settings, new Date(testNow), new AbortController().signal);
const [old, older, oldest] = ['2025-06-05', '2025-06-04', '2025-06-03'];

const partitions = async () => {
  const { rows } = await pool.query(
    `select right(relname, 8) as day, inhdetachpending as pending from pg_class left join pg_inherits on inhrelid = pg_class.oid
     where relname ~ '^snapshot_rows_2025.{4}$' order by 1`,
  );
  return rows;
};

const tidyInQuiet = async () => {
  await untilRowsAreQuiet(pool);
  return await tidy();
};

t.test(
  'with an export and a load under way: rows are deleted, the disk is freed once they are over',
  async t => {
    for (const id of ['one', 'two']) {
      for (const day of [oldest, older, old, today]) await fillSnapshot(pool, id, day, 1_000);
    }
    const reading = await slowExport(app, 'two');
    const loading = await slowLoad(app, 'one', '2026-03-01');
    // Whoever waited for a lock longer than this would fail.
    const watch = await pool.connect();
    await watch.query(`set lock_timeout = '1s'`);

    const [done] = await Promise.all([
      tidy(),
      // A new day, an export of all that there is, and a load of another day meanwhile.
      watch.query(`select ensure_snapshot_partition('2026-02-01')`),
      app.download('one', '6-months-weekly').then(({ status }) => t.equal(status, 200)),
      app
        .load('two', '2026-03-02', loadBody([adoptionRow()]))
        .then(({ status }) => t.equal(status, 200)),
    ]);
    t.match(done, { snapshots: 6, days: 0, partitions: { dropped: 0, unregistered: [] } });
    t.match(
      await partitions(),
      [oldest, older, old].map(day => ({ day: day.replaceAll('-', ''), pending: false })),
      'not even begun',
    );

    t.equal(await loading.end(), 201);
    t.ok(await reading.end());
    watch.release(true);
    // One that began after the rows were deleted keeps their partitions, though not their disk.
    const next = await pool.connect();
    await next.query('begin isolation level repeatable read read only');
    await next.query(`select from snapshot_rows where snapshot_date = '${today}'`);
    await eventually(async () => {
      t.match(await tidy(), { snapshots: 0, partitions: { dropped: 0 } });
      const { rows } = await pool.query(
        `select sum(pg_relation_size(oid))::int as bytes from pg_class where relname ~ '^snapshot_rows_2025.{4}$'`,
      );
      return rows[0].bytes === 0;
    }, 'a disk given back');
    await next.query('commit');
    next.release();
    t.match(await nightsUntilDropped(tidyInQuiet, 3), { snapshots: 0, dropped: 3 });
    t.strictSame(await partitions(), []);
  },
);

t.test('a load of an old day keeps its partition; the others’ rows go one by one', async t => {
  for (const id of ['one', 'two']) await fillSnapshot(pool, id, old, 1_000);
  const loading = await slowLoad(app, 'one', old);
  t.match(await tidy(), { snapshots: 1, days: 0, partitions: { dropped: 0 } });
  t.equal(await loading.end(), 200);
  const { rows } = await pool.query(
    'select distinct environment_id from snapshot_rows where snapshot_date = $1',
    [old],
  );
  t.strictSame(rows, [{ environment_id: 'one' }]);

  // Into an old day that is empty: its partition has just been made.
  const fresh = await slowLoad(app, 'one', older);
  t.match(await tidyInQuiet(), { snapshots: 1, days: 0, partitions: { dropped: 0 } });
  t.equal(await fresh.end(), 201);
  t.match(await nightsUntilDropped(tidyInQuiet, 2), { snapshots: 1, days: 1, dropped: 2 });
});

t.test('an export that has read the registry and not yet the rows finds them whole', async t => {
  await fillSnapshot(pool, 'one', old, 1_000);
  const reader = await pool.connect();
  await reader.query('begin isolation level repeatable read read only');
  await reader.query('select from snapshots');
  t.match(await tidy(), { snapshots: 1, days: 0, partitions: { dropped: 0 } });
  const rows = `select from snapshot_rows where environment_id = 'one' and snapshot_date = '${old}'`;
  t.match(await tidy(), { snapshots: 0, partitions: { dropped: 0 } }, 'and the next night');
  t.equal((await reader.query(rows)).rowCount, 1_000);
  await reader.query('commit');
  reader.release();
  t.match(await nightsUntilDropped(tidyInQuiet, 1), { dropped: 1 });
});

t.test('an export that reads the old day itself is left to end', async t => {
  await writeWideSnapshot(pool, {
    environmentId: 'two',
    date: old,
    rows: 1_500,
    nameBytes: 50_000,
  });
  const reader = await pool.connect();
  await reader.query('begin isolation level repeatable read read only');
  await reader.query(
    `declare rows cursor for select company_name from snapshot_rows where environment_id = 'two' and snapshot_date = '${old}'`,
  );
  await reader.query('fetch 1 from rows');
  // Rows are deleted instead, which the reader does not see.
  t.match(await tidy(), { snapshots: 1, days: 0, partitions: { dropped: 0 } });
  t.equal((await reader.query('fetch all from rows')).rowCount, 1_499);
  await reader.query('commit');
  reader.release();
  t.match(await nightsUntilDropped(tidyInQuiet, 1), { dropped: 1 });
});

t.test(
  'a detachment that broke off keeps no new day out, is made good by a load, and ends the next night',
  async t => {
    await pool.query(`select ensure_snapshot_partition($1), ensure_snapshot_partition($2)`, [
      old,
      older,
    ]);
    await fillSnapshot(pool, 'one', old, 10);
    await pool.query('truncate snapshot_rows_20250605');
    await pool.query(`delete from snapshots where snapshot_date = $1`, [old]);
    const reader = await pool.connect();
    await reader.query('begin isolation level repeatable read read only');
    await reader.query(
      `select from snapshot_rows where environment_id = 'two' and snapshot_date = '2026-02-28'`,
    );
    const breakOff = async (day: string) => {
      const killed = await pool.connect();
      await killed.query(`set lock_timeout = '100ms'`);
      const detach = `alter table snapshot_rows detach partition snapshot_rows_${day.replaceAll('-', '')} concurrently`;
      await t.rejects(killed.query(detach), { code: '55P03' });
      killed.release(true);
    };
    await breakOff(old);
    t.match(await partitions(), [{ pending: false }, { day: '20250605', pending: true }]);

    const refused = await app.load('one', old, loadBody([adoptionRow()]));
    t.equal(refused.status, 503, 'while an older export is open');
    t.ok(refused.headers['retry-after']);
    t.equal(
      (await app.load('one', '2026-01-06', loadBody([adoptionRow()]))).status,
      201,
      'a new day',
    );
    t.match(await tidy(), { partitions: { dropped: 0 } });
    await reader.query('commit');

    const row = adoptionRow({ companyName: 'late' });
    t.equal((await app.load('one', old, loadBody([row]))).status, 201);
    t.match(await partitions(), [{ pending: false }, { pending: false }]);
    const { rows } = await pool.query(
      'select company_name from snapshot_rows where snapshot_date = $1',
      [old],
    );
    t.strictSame(rows, [{ company_name: 'late' }]);
    t.match(await nightsUntilDropped(tidyInQuiet, 2), { snapshots: 1, days: 1, dropped: 2 });

    await pool.query(`select ensure_snapshot_partition($1), ensure_snapshot_partition($2)`, [
      old,
      older,
    ]);
    await reader.query('begin');
    await reader.query(
      `select from snapshot_rows where environment_id = 'two' and snapshot_date = '2026-02-28'`,
    );
    await breakOff(old);
    await reader.query('commit');
    reader.release();
    // And one that was detached and not dropped.
    await pool.query('create table snapshot_rows_20250101 (like snapshot_rows including all)');
    t.match(await nightsUntilDropped(tidyInQuiet, 3), { dropped: 3 });
    t.strictSame(await partitions(), []);
  },
);

t.test('rows that came in before the end of the detachment are not lost', async t => {
  await pool.query('create table snapshot_rows_20250605 (like snapshot_rows including all)');
  await pool.query(
    `insert into snapshot_rows_20250605 (environment_id, snapshot_date, company_id, company_name, feature_id, feature_name, first_seen, last_seen, stars_state, frequency, feedback_count)
     values ('one', '2025-06-05', 'c1', 'rescued', 'f1', 'F', now(), now(), 1, 0, 0)`,
  );
  t.match(await tidy(), { partitions: { dropped: 0, unregistered: [old] } });
  t.equal((await app.load('two', old, loadBody([adoptionRow()]))).status, 201);
  const { rows } = await pool.query(
    `select company_name from snapshot_rows where environment_id = 'one' and snapshot_date = $1`,
    [old],
  );
  t.strictSame(rows, [{ company_name: 'rescued' }]);
});

t.test('a pending partition that was filled after all comes back', async t => {
  const day = '2025-07-01';
  await app.putEnvironment('three', 'pro');
  await pool.query(`select ensure_snapshot_partition($1)`, [day]);
  const filler = await pool.connect();
  await filler.query('begin');
  await filler.query(
    `insert into snapshot_rows (environment_id, snapshot_date, company_id, company_name, feature_id, feature_name, first_seen, last_seen, stars_state, frequency, feedback_count)
     values ('three', $1, 'c1', 'in time', 'f1', 'F', now(), now(), 1, 0, 0)`,
    [day],
  );
  const killed = await pool.connect();
  await killed.query(`set lock_timeout = '100ms'`);
  const detach = 'alter table snapshot_rows detach partition snapshot_rows_20250701 concurrently';
  await t.rejects(killed.query(detach), { code: '55P03' });
  killed.release(true);
  await filler.query(
    `insert into snapshots (environment_id, snapshot_date, row_count) values ('three', $1, 1)`,
    [day],
  );
  await filler.query('commit');
  filler.release();
  const find = 'select company_name from snapshot_rows where snapshot_date = $1';
  t.equal((await pool.query(find, [day])).rowCount, 0);
  t.match(await tidy(), { partitions: { dropped: 0 } });
  t.strictSame((await pool.query(find, [day])).rows, [{ company_name: 'in time' }]);
  t.equal((await app.download('three', 'today')).headers['x-total-rows'], '1');
});

t.test('what is shown at the end', async t => {
  await app.call(`/v1/environments/two`, { method: 'DELETE' });
  await app.putEnvironment('two', 'pro');
  const rows = [adoptionRow()];
  await app.load('two', today, loadBody(rows));
  t.equal((await app.download('two', 'today')).text, exportHeader + exportPart(rows, today));
});
