import t from 'tap';
import { startTestApp } from '../helpers/app.ts';
import { startWithRuns } from '../helpers/ended-runs.ts';
import { longestBlockMs } from '../helpers/longest-block.ts';

t.test('starts and cancels a backfill of a config that had thousands', async t => {
  const app = await startTestApp(t);
  await startWithRuns(app, { configs: ['a'] });
  const { pool } = app.database;
  await pool.query(
    `insert into backfills (
       environment_id, config_id, id, from_date, to_date, total, pending_dates, created_at)
     select 'acme', 'a', n::text, '2026-01-01', '2026-01-01', 0, '{}', now()
     from generate_series(1, 10000) as n`,
  );
  await pool.query(`insert into snapshots (environment_id, snapshot_date, row_count)
    values ('acme', '2026-02-27', 0), ('acme', '2026-02-28', 0)`);
  const path = '/v1/environments/acme/export-configs/a';
  const start = () =>
    app.call(`${path}/backfills`, {
      method: 'POST',
      json: { from: '2026-02-27', to: '2026-02-28' },
    });
  const ids: string[] = [];
  const longestMs = await longestBlockMs(async () => {
    for (const id of ids.slice(-1)) {
      const cancel = `${path}/backfills/${id}/cancel`;
      t.equal((await app.call(cancel, { method: 'POST' })).status, 202);
    }
    const started = await start();
    t.match(started.json, { state: 'running', total: 2 });
    ids.push(started.json.id);
    t.match((await start()).json, { status: 409, code: 'conflict' }, 'finds the running one');
  });
  t.ok(longestMs < 50, `${longestMs} ms`);
  const off = await app.call(path, { method: 'PATCH', json: { enabled: false } });
  t.equal(off.status, 200, off.text);
  const { rows } = await pool.query('select id from backfills where cancelled_at is not null');
  t.strictSame(rows.map(({ id }) => id).sort(), ids.sort());
});
