import t from 'tap';
import { systemActor } from '../../src/audit/audit-log.ts';
import { insertManualRun } from '../../src/export-runs/repository.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { testNow } from '../helpers/app.ts';
import { daysBefore } from '../helpers/days.ts';
import { neededDates } from '../helpers/needed-dates.ts';
import { startWithSnapshots } from '../helpers/retention.ts';

const today = testNow.slice(0, 10);
const { app, pool, reset, fill, tidy, render, ...look } = await startWithSnapshots(t);
t.beforeEach(reset);
const compact = (day: string) => day.replaceAll('-', '');

t.test('drops the rows of rendered days and deletes snapshots that no export can show', async t => {
  const daily = Array.from({ length: 230 }, (_, index) => daysBefore(today, index)).filter(
    (_, index) => index < 40 || index % 5 === 0,
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
