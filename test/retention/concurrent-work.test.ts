import t, { type Test } from 'tap';
import { tidyUp } from '../../src/retention/tidy-up.ts';
import { adoptionRow, exportHeader, exportPart, ingestBody } from '../helpers/adoption-rows.ts';
import { startTestApp, testNow } from '../helpers/app.ts';
import { fillSnapshot } from '../helpers/fill-snapshot.ts';
import { open } from '../helpers/http-client.ts';
import { renderSnapshots } from '../helpers/render-snapshots.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { slowExport, slowIngest } from '../helpers/slow-transfers.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { writeWideSnapshot } from '../helpers/wide-snapshot.ts';

/** Tests retention during exports, ingests and deletions. */

const today = testNow.slice(0, 10);
const settings = { snapshots: 'needed', runDays: 90, auditDays: 400 } as const;
const app = await startTestApp(t);
const { pool } = app.database;
/** The newest snapshot of an environment is always needed, older ones may be deleted. */
for (const id of ['one', 'two']) {
  await app.putEnvironment(id, 'pro');
  await app.ingest(id, today, ingestBody([adoptionRow()]));
}
const never = new AbortController().signal;
const tidy = (timeoutMs?: number) =>
  tidyUp(app.dependencies.db, settings, new Date(testNow), never, timeoutMs);
const [old, older] = ['2025-06-05', '2025-06-04'];

const partitions = async () => {
  const { rows } = await pool.query(
    `select right(relname, 8) as day, inhdetachpending as pending from pg_class left join pg_inherits on inhrelid = pg_class.oid
     where relname ~ '^snapshot_rows_2025.{4}$' order by 1`,
  );
  return rows;
};

const untilDetachmentWaits = () =>
  waitFor('a detachment that waits', async () =>
    (await partitions()).some(({ pending }) => pending),
  );

/** Returns true if a statement of this database waits for a lock of another one. */
const isAnyLockAwaited = async () => {
  const { rowCount } = await pool.query(
    `select from pg_stat_activity where datname = current_database()
       and cardinality(pg_blocking_pids(pid)) > 0 and query !~ 'detach'`,
  );
  return (rowCount ?? 0) > 0;
};

/** Opens a transaction that reads another day, as a slow export does. */
async function openReader() {
  const reader = await pool.connect();
  await reader.query('begin isolation level repeatable read read only');
  await reader.query(`select from snapshot_rows where snapshot_date = '2026-02-28'`);
  return {
    query: (text: string) => reader.query(text),
    async end() {
      await reader.query('commit');
      reader.release();
    },
  };
}

/**
 * Starts to detach the partition of a day and gives up. Another transaction must hold a lock on the
 * rows.
 */
async function breakOffDetachment(t: Test, day: string): Promise<void> {
  const client = await pool.connect();
  await client.query(`set lock_timeout = '100ms'`);
  const name = `snapshot_rows_${day.replaceAll('-', '')}`;
  const detach = `alter table snapshot_rows detach partition ${name} concurrently`;
  await t.rejects(client.query(detach), { code: '55P03' });
  client.release(true);
}

const insertRow = (table: string, environmentId: string, day: string, companyName: string) =>
  `insert into ${table} (environment_id, snapshot_date, company_id, company_name, feature_id,
     feature_name, first_seen, last_seen, stars_state, frequency, feedback_count)
   values ('${environmentId}', '${day}', 'c1', '${companyName}', 'f1', 'F', now(), now(), 1, 0, 0)`;

t.test('does not start to detach a day during a long export or ingest', async t => {
  for (const id of ['one', 'two'])
    for (const day of [older, old]) await fillSnapshot(pool, id, day, 1_000);
  await renderSnapshots(pool);
  const reading = await slowExport(app, 'two');
  const ingesting = await slowIngest(app, 'one', '2026-03-01');
  t.match(await tidy(1), { partitions: 0, snapshots: 0 });
  t.match(
    await partitions(),
    [older, old].map(day => ({ day: day.replaceAll('-', ''), pending: false })),
  );
  t.equal(await ingesting.end(), 201);
  t.ok(await reading.end());
  t.match(await tidy(), { partitions: 2, snapshots: 4 });
  t.strictSame(await partitions(), []);
});

t.test('waits for older transactions and does not block other work', async t => {
  for (const id of ['one', 'two']) await fillSnapshot(pool, id, old, 1_000);
  const reader = await openReader();
  const ingesting = await slowIngest(app, 'one', '2026-02-22');
  const tidying = tidy();
  await untilDetachmentWaits();
  const client = await pool.connect();
  await client.query(`set lock_timeout = '10s'`);
  await client.query(`select ensure_snapshot_partition('2026-02-01')`);
  client.release(true);
  t.equal((await app.download('one', '6-months-weekly')).status, 200);
  t.equal((await app.ingest('two', today, ingestBody([adoptionRow()]))).status, 200);
  const deleted = await app.call(`/v1/environments/one/snapshots/${old}`, { method: 'DELETE' });
  t.match(
    deleted,
    { status: 409, json: { code: 'conflict' } },
    'a deletion on the day that is being removed',
  );
  const rows = `select from snapshot_rows where environment_id = 'one' and snapshot_date = '${old}'`;
  t.equal((await reader.query(rows)).rowCount, 1_000, 'the older transaction still sees the rows');
  await reader.end();
  t.equal(await ingesting.end(), 201);
  t.match(await tidying, { partitions: 1, snapshots: 2 });
  t.strictSame(await partitions(), []);
});

t.test('renders no snapshot of a day while its partition is being detached', async t => {
  await fillSnapshot(pool, 'one', old, 10);
  const reader = await openReader();
  const tidying = tidy();
  await untilDetachmentWaits();
  const rendering = app.dependencies.renderer.render({ environmentId: 'one', date: old }, never);
  await Promise.race([rendering, waitFor('a rendering that waits', isAnyLockAwaited)]);
  await reader.end();
  t.equal(await rendering, 'superseded', 'the snapshot was deleted meanwhile');
  t.match(await tidying, { partitions: 1, snapshots: 1 });
});

t.test('does not remove a day while a snapshot of it is being rendered', async t => {
  await fillSnapshot(pool, 'one', old, 10);
  const other = await pool.connect();
  await other.query(`begin; select from environments where id = 'one' for update`);
  const rendering = app.dependencies.renderer.render({ environmentId: 'one', date: old }, never);
  await waitFor('a rendering that waits for the environment', isAnyLockAwaited);
  t.match(await tidy(), { partitions: 0, snapshots: 0 });
  await other.query('commit');
  other.release();
  t.equal(await rendering, 'rendered');
  t.match(await tidy(), { partitions: 1, snapshots: 1 });
});

t.test('leaves a day to the next night after a deadlock with the deletion of rows', async t => {
  await fillSnapshot(pool, 'one', old, 10);
  const reader = await openReader();
  const tidying = tidy();
  await untilDetachmentWaits();
  const pause = await pool.connect();
  await pause.query('begin; lock table rendered_snapshots in access exclusive mode');
  await reader.end();
  await waitFor('a retention that has locked the snapshot', isAnyLockAwaited);
  const deletion = await pool.connect();
  t.teardown(() => deletion.release(true));
  // Postgres ends the transaction that looks for a deadlock first.
  await deletion.query(`set deadlock_timeout = '60s'; begin`);
  await deletion.query(`delete from snapshot_rows_20250605 where environment_id = 'one'`);
  const deleting = deletion.query(`delete from snapshots where snapshot_date = '${old}'`);
  await pause.query('rollback');
  pause.release();
  t.match(await tidying, { partitions: 0, snapshots: 0 });
  await deleting;
  await deletion.query('rollback');
  t.match(await tidy(), { partitions: 1, snapshots: 1 });
});

t.test('does not remove a day while a snapshot of it is being ingested', async t => {
  for (const id of ['one', 'two']) await fillSnapshot(pool, id, old, 1_000);
  const ingesting = await slowIngest(app, 'one', old);
  t.match(await tidy(), { partitions: 0, snapshots: 0 });
  t.equal(await ingesting.end(), 200);
  t.match(await tidy(), { partitions: 1, snapshots: 2 });

  const first = await slowIngest(app, 'one', older);
  t.match(await tidy(), { partitions: 0, snapshots: 0 }, 'an ingest into an empty partition');
  t.equal(await first.end(), 201);
  t.match(await tidy(), { partitions: 1, snapshots: 1 });
});

t.test('finishes an interrupted detachment, which does not block a new day', async t => {
  await fillSnapshot(pool, 'one', old, 10);
  const reader = await openReader();
  await breakOffDetachment(t, old);
  t.match(await partitions(), [{ day: '20250605', pending: true }]);
  const refused = await app.ingest('one', old, ingestBody([adoptionRow()]));
  t.equal(refused.status, 503, 'an ingest of that day while an older transaction is open');
  t.ok(refused.headers['retry-after']);
  t.equal((await app.ingest('one', '2026-01-06', ingestBody([adoptionRow()]))).status, 201);
  await fillSnapshot(pool, 'one', older, 10);
  t.match(await tidy(1), { partitions: 0 });
  await reader.end();

  const row = adoptionRow({ companyName: 'late' });
  t.equal(
    (await app.ingest('one', old, ingestBody([row]))).status,
    200,
    'an ingest attaches the partition again',
  );
  const { rows } = await pool.query(
    'select company_name from snapshot_rows where snapshot_date = $1',
    [old],
  );
  t.strictSame(rows, [{ company_name: 'late' }]);

  const another = await openReader();
  await breakOffDetachment(t, old);
  await another.end();
  // This table represents a day that was detached but not dropped.
  await pool.query('create table snapshot_rows_20250101 (like snapshot_rows including all)');
  t.match(await tidy(), { partitions: 3, snapshots: 2 });
  t.strictSame(await partitions(), []);
  const path = '/v1/environments/one/snapshots/2026-01-06';
  t.equal((await app.call(path, { method: 'DELETE' })).status, 204);
  t.match(await tidy(), { partitions: 1 });
});

t.test('keeps rows that were written before the end of a detachment', async t => {
  await pool.query('create table snapshot_rows_20250605 (like snapshot_rows including all)');
  await pool.query(insertRow('snapshot_rows_20250605', 'one', old, 'rescued'));
  t.match(await tidy(), { partitions: 0, unregistered: [old] });
  const { rows } = await pool.query(
    `select company_name from snapshot_rows where environment_id = 'one' and snapshot_date = $1`,
    [old],
  );
  t.strictSame(rows, [{ company_name: 'rescued' }]);
  await pool.query('delete from snapshot_rows where snapshot_date = $1', [old]);
  t.match(await tidy(), { partitions: 1 });
});

t.test('attaches a pending partition again if it has a needed snapshot', async t => {
  const day = '2025-07-01';
  await app.putEnvironment('three', 'pro');
  await pool.query(`select ensure_snapshot_partition($1)`, [day]);
  const filler = await pool.connect();
  await filler.query('begin');
  await filler.query(insertRow('snapshot_rows', 'three', day, 'in time'));
  await breakOffDetachment(t, day);
  await filler.query(
    `insert into snapshots (environment_id, snapshot_date, row_count) values ('three', $1, 1)`,
    [day],
  );
  await filler.query('commit');
  filler.release();
  const find = 'select company_name from snapshot_rows where snapshot_date = $1';
  t.equal((await pool.query(find, [day])).rowCount, 0);
  t.match(await tidy(), { partitions: 0, unrendered: [day] });
  t.strictSame((await pool.query(find, [day])).rows, [{ company_name: 'in time' }]);
  t.equal((await app.download('three', 'today')).headers['x-total-rows'], '1');
  await app.call(`/v1/environments/three`, { method: 'DELETE' });
  t.match(await tidy(), { partitions: 1 });
});

t.test('allows the deletion of a snapshot in every state of its day', async t => {
  await fillSnapshot(pool, 'one', older, 10);
  await fillSnapshot(pool, 'one', old, 10);
  await app.putEnvironment('three', 'pro');
  await fillSnapshot(pool, 'three', old, 10);
  await renderSnapshots(pool);
  const remove = (id: string, day: string) =>
    app.call(`/v1/environments/${id}/snapshots/${day}`, { method: 'DELETE' });

  await pool.query('alter table snapshot_rows detach partition snapshot_rows_20250604');
  await pool.query('drop table snapshot_rows_20250604');
  t.equal((await remove('one', older)).status, 204, 'dropped');
  t.equal((await remove('one', older)).status, 404);

  const reader = await openReader();
  await breakOffDetachment(t, old);
  t.equal((await remove('one', old)).status, 503, 'while an older transaction is open');
  await reader.end();
  t.equal((await remove('one', old)).status, 204, 'half detached');
  await pool.query('alter table snapshot_rows detach partition snapshot_rows_20250605');
  t.equal((await remove('three', old)).status, 204, 'detached but not dropped');
  t.equal((await pool.query('select from snapshot_rows_20250605')).rowCount, 0);
  t.match(await tidy(), { unregistered: [] });
  t.strictSame(await partitions(), []);
});

t.test('drops the rows of an environment that was deleted during a detachment', async t => {
  await app.putEnvironment('three', 'pro');
  await fillSnapshot(pool, 'three', old, 10);
  await fillSnapshot(pool, 'one', old, 10);
  const reader = await openReader();
  await breakOffDetachment(t, old);
  t.equal((await app.call('/v1/environments/three', { method: 'DELETE' })).status, 204);
  await reader.end();
  t.match(await tidy(), { partitions: 1, snapshots: 1, unregistered: [] });
});

t.test('deletes the rows of an environment from a day that is not attached', async t => {
  const find = `select environment_id from snapshot_rows where snapshot_date = '${old}'`;
  const deleteThree = () => app.call('/v1/environments/three', { method: 'DELETE' });
  await fillSnapshot(pool, 'one', old, 1);
  for (const state of ['half detached', 'detached']) {
    await app.putEnvironment('three', 'pro');
    await fillSnapshot(pool, 'three', old, 1);
    if (state === 'half detached') {
      const reader = await openReader();
      await breakOffDetachment(t, old);
      t.equal((await deleteThree()).status, 204, 'while an older transaction is open');
      await reader.end();
    } else {
      await pool.query('alter table snapshot_rows detach partition snapshot_rows_20250605');
      t.equal((await deleteThree()).status, 204, state);
    }
    t.equal((await app.ingest('one', old, ingestBody([adoptionRow()]))).status, 200, 'attaches it');
    t.strictSame((await pool.query(find)).rows, [{ environment_id: 'one' }], state);
  }
  t.match(await tidy(), { partitions: 1, unregistered: [] });
});

t.test('serves the same file before, during and after its days are dropped', async t => {
  // Sundays older than 31 days, which the weekly exports show.
  const days = ['2025-12-07', '2025-12-14'];
  await app.putEnvironment('four', 'pro');
  for (const date of days)
    await writeWideSnapshot(pool, { environmentId: 'four', date, rows: 130, nameBytes: 50_000 });
  await renderSnapshots(pool);
  const read = async () => (await app.download('four', '3-months-weekly')).text;
  const before = await read();
  t.equal(before.split('\n').length, 262);
  const begun = await open(`${app.origin}/v1/environments/four/exports/3-months-weekly.csv`, {
    headers: { authorization: `Bearer ${testAdminToken}` },
  });
  begun.pause();
  const reader = await openReader();
  const tidying = tidy();
  await waitFor('a detachment', async () => (await partitions()).some(({ pending }) => pending));
  t.ok((await read()) === before, 'while the detachment waits for a transaction');
  await reader.end();
  t.match(await tidying, { partitions: 2, unrendered: [], unregistered: [] });
  t.strictSame(await partitions(), []);
  t.ok((await read()) === before, 'after the days are dropped');
  let text = '';
  for await (const piece of begun) text += piece;
  t.ok(text === before, 'a download that began before');
});

t.test('exports the snapshot of a new environment after a day was removed', async t => {
  await fillSnapshot(pool, 'one', old, 10);
  t.match(await tidy(), { partitions: 1, snapshots: 1 });
  await app.call(`/v1/environments/two`, { method: 'DELETE' });
  await app.putEnvironment('two', 'pro');
  const rows = [adoptionRow()];
  await app.ingest('two', today, ingestBody(rows));
  t.equal((await app.download('two', 'today')).text, exportHeader + exportPart(rows, today));
});
