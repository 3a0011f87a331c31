import t from 'tap';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startTestApp } from '../helpers/app.ts';

const app = await startTestApp(t);

t.test('creates, reads and updates an environment', async t => {
  const path = '/v1/environments/acme';
  const created = await app.call(path, { method: 'PUT', json: { name: 'Acme', plan: 'free' } });
  t.equal(created.status, 201);
  t.match(created.json, { id: 'acme', name: 'Acme', plan: 'free' });
  t.strictSame((await app.call(path)).json, created.json);
  const updated = await app.call(path, { method: 'PUT', json: { name: 'ACME', plan: 'pro' } });
  t.equal(updated.status, 200);
  t.match(updated.json, { name: 'ACME', plan: 'pro', createdAt: created.json.createdAt });
  const key = await app.makeKey('acme', ['snapshots:write']);
  t.strictSame((await app.call(path, { token: key.token })).json, updated.json);
});

t.test(
  'creates an environment once under concurrent requests and updates it otherwise',
  async t => {
    const statuses = await Promise.all(
      Array.from({ length: 6 }, async () => {
        const answer = await app.call('/v1/environments/race', {
          method: 'PUT',
          json: { name: 'x', plan: 'pro' },
        });
        return answer.status;
      }),
    );
    t.strictSame(statuses.sort(), [200, 200, 200, 200, 200, 201]);
  },
);

t.test('refuses invalid ids and bodies', async t => {
  const json = { name: 'x', plan: 'pro' };
  for (const id of ['-a', '_a', 'a.b', 'a%20b', 'x'.repeat(65), '%C3%A9', 'a%00', 'a%2Fb']) {
    const answer = await app.call(`/v1/environments/${id}`, { method: 'PUT', json });
    t.equal(answer.status, 400, id);
    t.equal(answer.json.code, 'validation_failed', id);
  }
  for (const body of [
    {},
    { name: 'x' },
    { plan: 'pro' },
    { ...json, plan: 'Pro' },
    { ...json, id: 'x' },
  ]) {
    const answer = await app.call('/v1/environments/y', { method: 'PUT', json: body });
    t.equal(answer.status, 400, JSON.stringify(body));
    t.ok(answer.json.errors.length > 0);
  }
  t.equal((await app.call('/v1/environments/y')).status, 404);
});

t.test('lists environments in pages, ordered by id', async t => {
  for (const id of ['b', 'B', '9', '10', 'a_', 'a-']) await app.putEnvironment(id);
  const first = (await app.call('/v1/environments?limit=5')).json;
  const second = (await app.call(`/v1/environments?limit=100&cursor=${first.nextCursor}`)).json;
  const ids = [...first.items, ...second.items].map((item: { id: string }) => item.id);
  t.strictSame(ids, ['10', '9', 'B', 'a-', 'a_', 'acme', 'b', 'race']);
  t.equal(second.nextCursor, null);
});

t.test('deletes an environment with its data and nothing else', async t => {
  for (const id of ['doomed', 'spared']) {
    await app.putEnvironment(id);
    for (const date of ['2026-02-27', '2026-02-28', '2026-03-01']) {
      t.equal((await app.ingest(id, date, ingestBody([adoptionRow()]))).status, 201);
    }
    await app.makeKey(id, ['exports:read']);
  }
  t.equal((await app.call('/v1/environments/doomed', { method: 'DELETE' })).status, 204);
  t.equal((await app.call('/v1/environments/doomed', { method: 'DELETE' })).status, 404);
  for (const table of ['snapshot_rows', 'snapshots', 'api_keys']) {
    const { rows } = await app.database.pool.query(
      `select environment_id, count(*)::int as count from ${table} where environment_id in ('doomed', 'spared') group by 1`,
    );
    t.strictSame(rows, [{ environment_id: 'spared', count: table === 'api_keys' ? 1 : 3 }], table);
  }
  t.equal((await app.download('spared', 'today')).headers['x-total-rows'], '1');
  // A new environment with the same id starts empty.
  await app.putEnvironment('doomed');
  t.strictSame((await app.call('/v1/environments/doomed/snapshots')).json.items, []);
});

t.test('deletes an environment with more days than one transaction may lock', async t => {
  const days = 100;
  await app.putEnvironment('long');
  const { pool } = app.database;
  await pool.query(
    `select ensure_snapshot_partition('2025-03-01'::date + day) from generate_series(0, $1 - 1) as day`,
    [days],
  );
  await pool.query(
    `insert into snapshot_rows (environment_id, snapshot_date, company_id, feature_id, feature_name,
       first_seen, last_seen, stars_state, frequency, feedback_count)
     select 'long', '2025-03-01'::date + day, 'c', 'f', 'x', now(), now(), 1, 0, 0
     from generate_series(0, $1 - 1) as day`,
    [days],
  );
  await pool.query(
    `insert into snapshots (environment_id, snapshot_date, row_count)
     select 'long', '2025-03-01'::date + day, 1 from generate_series(0, $1 - 1) as day`,
    [days],
  );
  await pool.query(
    `insert into rendered_snapshots (environment_id, version, snapshot_date, plain_bytes, deflated_bytes,
       chunk_count, crc32, renderer)
     select environment_id, version, snapshot_date, 1, 1, 1, 0, 'test' from snapshots where environment_id = 'long'`,
  );
  const most = { locks: 0 };
  const watcher = await pool.connect();
  let isDone = false;
  const watching = (async () => {
    while (!isDone) {
      const { rows } = await watcher.query<{ locks: number }>(
        `select coalesce(max(count), 0)::int as locks from (
           select count(*) from pg_locks
           where locktype = 'relation' and mode = 'RowExclusiveLock' group by pid) as held`,
      );
      most.locks = Math.max(most.locks, rows[0]?.locks ?? 0);
    }
  })();
  const answer = await app.call('/v1/environments/long', { method: 'DELETE' });
  isDone = true;
  await watching;
  watcher.release();
  t.equal(answer.status, 204, answer.text);
  t.ok(most.locks > 0 && most.locks < days, `at most ${most.locks} locks at once`);
  for (const table of ['snapshot_rows', 'snapshots', 'rendered_snapshots']) {
    const { rowCount } = await pool.query(`select from ${table} where environment_id = 'long'`);
    t.equal(rowCount, 0, table);
  }
});
