import t from 'tap';
import { tidyUp } from '../../src/retention/tidy-up.ts';
import { testNow } from '../helpers/app.ts';
import { daysBefore } from '../helpers/days.ts';
import { retentionSettings, startWithSnapshots } from '../helpers/retention.ts';

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
