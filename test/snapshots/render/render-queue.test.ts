import t from 'tap';
import { renderQueue } from '../../../src/db/job-queue.ts';
import {
  deleteReplacedRenderings,
  enqueueMissingRenderings,
  recordUnfinishedSnapshots,
} from '../../../src/snapshots/render/render-queue.sql.ts';
import { adoptionRow, ingestBody } from '../../helpers/adoption-rows.ts';
import { startTestApp } from '../../helpers/app.ts';
import { startExportWorker } from '../../helpers/export-configs.ts';
import { fillSnapshot } from '../../helpers/fill-snapshot.ts';
import { emptyTables } from '../../helpers/postgres.ts';
import { renderAll } from '../../helpers/render-snapshots.ts';
import { waitFor } from '../../helpers/wait-for.ts';

const date = '2026-03-01';
const body = (companyName: string) => ingestBody([adoptionRow({ companyName })]);
const signal = new AbortController().signal;

const app = await startTestApp(t);
const { pool } = app.database;

/** Replaces all data by an empty environment. */
async function start() {
  await emptyTables(pool);
  await app.putEnvironment('acme');
  const count = async (sql: string) => Number((await pool.query(sql)).rows[0].count);
  return {
    queued: () => count(`select count(*) from pgboss.job where name = '${renderQueue}'`),
    rendered: () => count('select count(*) from rendered_snapshots'),
    chunks: () => count('select count(*) from snapshot_chunks'),
  };
}

t.test('enqueues one rendering for each ingested date, also after replacements', async t => {
  const { queued } = await start();
  for (const version of ['first', 'second', 'third']) await app.ingest('acme', date, body(version));
  t.equal(await queued(), 1);
  await app.ingest('acme', '2026-02-28', body('other'));
  t.equal(await queued(), 2);
  t.equal((await app.ingest('acme', date, 'not a snapshot\n')).status, 422);
  t.equal(await queued(), 2, 'a refused body enqueues nothing');
});

t.test('enqueues many renderings in time that hardly depends on the queue', async t => {
  const { queued } = await start();
  const { db, jobs } = app.dependencies;
  await app.ingest('acme', date, body('first'));
  // The planner expects no rows of tables that were empty when they were analyzed.
  await pool.query('delete from snapshots; delete from pgboss.job; delete from snapshot_changes');
  await pool.query('analyze snapshots, snapshot_changes, pgboss.job');
  await pool.query(
    `insert into environments (id, name, plan)
     select 'e' || n, 'e', 'enterprise' from generate_series(1, 4000) as n`,
  );
  await pool.query(
    `insert into snapshots (environment_id, snapshot_date, row_count)
     select 'e' || n, '2026-03-01', 0 from generate_series(1, 4000) as n`,
  );
  const timesMs: number[] = [];
  for (let call = 1; call <= 4; call += 1) {
    const startedAt = performance.now();
    t.equal(await enqueueMissingRenderings(db, jobs), 1_000);
    timesMs.push(performance.now() - startedAt);
  }
  t.equal(await queued(), 4_000);
  const [first = 0, , ...later] = timesMs;
  // A busy machine may delay one call.
  t.ok(Math.min(...later) < 10 * first, `${timesMs.map(Math.round)} ms`);
});

t.test('renders a version once when several processes ask for it', async t => {
  const { rendered } = await start();
  await app.ingest('acme', date, body('ingested'));
  const { renderer } = app.dependencies;
  const outcomes = await Promise.all(
    Array.from({ length: 4 }, () => renderer.render({ environmentId: 'acme', date }, signal)),
  );
  t.equal(outcomes.filter(outcome => outcome === 'rendered').length, 1);
  t.equal(outcomes.filter(outcome => outcome === 'present').length, 3);
  t.equal(await rendered(), 1);
  t.equal(
    await renderer.render({ environmentId: 'acme', date: '2026-01-01' }, signal),
    'superseded',
  );
});

t.test('stores nothing of a version that was replaced while it was rendered', async t => {
  const { rendered, chunks } = await start();
  await app.ingest('acme', date, body('first'));
  const locker = await pool.connect();
  // The rendering has written its chunks and waits for the lock of the environment.
  await locker.query(`begin; select from environments where id = 'acme' for update`);
  const rendering = app.dependencies.renderer.render({ environmentId: 'acme', date }, signal);
  await waitFor('a rendering that waits for a lock', async () => {
    const { rowCount } = await pool.query(
      `select from pg_stat_activity where datname = current_database()
         and application_name = 'warehouse-export render' and wait_event_type = 'Lock'`,
    );
    return rowCount === 1;
  });
  await locker.query('update snapshots set version = gen_random_uuid()');
  await locker.query('commit');
  locker.release();
  t.equal(await rendering, 'superseded');
  t.equal(await rendered(), 0);
  t.equal(await chunks(), 0);
});

t.test('stores nothing of an environment that was deleted while it was rendered', async t => {
  const { chunks } = await start();
  await app.ingest('acme', date, body('first'));
  const locker = await pool.connect();
  await locker.query(`begin; select from environments where id = 'acme' for update`);
  const rendering = app.dependencies.renderer.render({ environmentId: 'acme', date }, signal);
  await waitFor('a rendering that waits for a lock', async () => {
    const { rowCount } = await pool.query(
      `select from pg_stat_activity where datname = current_database()
         and application_name = 'warehouse-export render' and wait_event_type = 'Lock'`,
    );
    return rowCount === 1;
  });
  await locker.query(`delete from environments where id = 'acme'; commit`);
  locker.release();
  t.equal(await rendering, 'superseded');
  t.equal(await chunks(), 0);
});

t.test(
  'refuses a row count that differs from the registry, and retries only a later version',
  async t => {
    const { rendered, queued } = await start();
    await app.ingest('acme', date, body('first'));
    await pool.query('update snapshots set row_count = 2');
    const { db, jobs, renderer } = app.dependencies;
    await t.rejects(renderer.render({ environmentId: 'acme', date }, signal), {
      message: /Row count mismatch for snapshot 2026-03-01 of acme: expected 2, read 1/,
    });
    t.equal(await rendered(), 0);
    await pool.query(`update pgboss.job set state = 'failed' where name = '${renderQueue}'`);
    t.equal(
      await enqueueMissingRenderings(db, jobs),
      0,
      'the failed version is not enqueued again',
    );
    await pool.query('update snapshots set version = gen_random_uuid()');
    t.equal(await enqueueMissingRenderings(db, jobs), 1, 'a later version is enqueued');
    t.equal(await enqueueMissingRenderings(db, jobs), 0, 'it is already in the queue');
    t.equal(await queued(), 2);
  },
);

t.test('ends at once when its signal aborts', async t => {
  const { chunks } = await start();
  await app.ingest('acme', date, body('first'));
  const locker = await pool.connect();
  await locker.query('begin; lock table snapshot_rows in access exclusive mode');
  const controller = new AbortController();
  const rendering = app.dependencies.renderer.render(
    { environmentId: 'acme', date },
    controller.signal,
  );
  await waitFor('a rendering that waits for a lock', async () => {
    const { rowCount } = await pool.query(
      `select from pg_stat_activity where datname = current_database()
         and application_name = 'warehouse-export render' and wait_event_type = 'Lock'`,
    );
    return rowCount === 1;
  });
  controller.abort(new Error('stopping'));
  await t.rejects(rendering, { message: 'stopping' });
  await locker.query('rollback');
  locker.release();
  t.equal(await chunks(), 0);
});

t.test('deletes the chunks of replaced versions after the grace period', async t => {
  const { rendered, chunks } = await start();
  await app.ingest('acme', date, body('first'));
  await renderAll(app);
  await app.ingest('acme', date, body('second'));
  await renderAll(app);
  t.equal(await rendered(), 2);
  const at = (minutes: number) => new Date(Date.parse('2026-03-02T10:00:00Z') + minutes * 60_000);
  const deleteAt = (minutes: number) =>
    deleteReplacedRenderings(app.dependencies.db, {
      now: at(minutes),
      before: at(minutes - 60),
      signal,
    });
  t.equal(await deleteAt(0), 0, 'noted');
  t.equal(await deleteAt(60), 0, 'still there after an hour');
  t.equal(await deleteAt(61), 1);
  t.equal(await rendered(), 1);
  t.equal(await chunks(), 1);
  await app.call(`/v1/environments/acme/snapshots/${date}`, { method: 'DELETE' });
  t.equal(await deleteAt(70), 0);
  t.equal(await deleteAt(131), 1, 'the chunks of a deleted snapshot');
  t.equal(await chunks(), 0);
});

t.test('finds snapshots that SQL changed, and changes that were not recorded', async t => {
  await start();
  const { db, jobs } = app.dependencies;
  const now = new Date('2026-03-02T10:00:00Z');
  const replaced = async () => {
    await deleteReplacedRenderings(db, { now, before: new Date(0), signal });
    const { rowCount } = await pool.query(
      'select from rendered_snapshots where replaced_at is not null',
    );
    return rowCount;
  };
  const changes = async () => (await pool.query('select from snapshot_changes')).rowCount;
  for (const day of ['2026-02-26', '2026-02-27', '2026-02-28'])
    await fillSnapshot(pool, 'acme', day, 1);
  t.equal(await enqueueMissingRenderings(db, jobs), 3);
  await pool.query('delete from pgboss.job where name = $1', [renderQueue]);
  await renderAll(app);
  t.equal(await enqueueMissingRenderings(db, jobs), 0);
  t.equal(await replaced(), 0);
  t.equal(await changes(), 0, 'no work is left');

  await pool.query(`update snapshots set version = default where snapshot_date = '2026-02-26'`);
  await pool.query(`delete from snapshots where snapshot_date = '2026-02-27'`);
  await pool.query('delete from snapshot_changes');
  t.equal(await enqueueMissingRenderings(db, jobs), 0);
  t.equal(await replaced(), 0);
  await recordUnfinishedSnapshots(db);
  t.equal(await enqueueMissingRenderings(db, jobs), 1);
  t.equal(await replaced(), 2);
  t.equal(await changes(), 1, 'the version that is not rendered keeps its change');
});

t.test('renders a snapshot whose day was detached and not dropped', async t => {
  const { rendered } = await start();
  await app.ingest('acme', date, body('detached'));
  await pool.query('alter table snapshot_rows detach partition snapshot_rows_20260301');
  await renderAll(app);
  t.equal(await rendered(), 1);
  const { rows } = await pool.query('select count(*)::int as n from snapshot_rows');
  t.equal(rows[0].n, 1, 'the rows are visible again');
});

t.test('renders ingested and SQL-filled snapshots in a worker', async t => {
  const { rendered } = await start();
  await app.ingest('acme', date, body('ingested'));
  await fillSnapshot(pool, 'acme', '2026-02-28', 10);
  startExportWorker(t, app);
  await waitFor('the rendering of both snapshots', async () => (await rendered()) === 2);
  const { rows } = await pool.query(
    `select snapshot_date, chunk_count, plain_bytes > 0 as "hasRows"
     from rendered_snapshots order by snapshot_date`,
  );
  t.strictSame(
    rows.map(({ chunk_count, hasRows }) => ({ chunk_count, hasRows })),
    [
      { chunk_count: 1, hasRows: true },
      { chunk_count: 1, hasRows: true },
    ],
  );
});
