import t from 'tap';
import { startTestApp } from '../helpers/app.ts';

/** Overview of the export configs of all environments. */

const app = await startTestApp(t, { now: '2026-03-03T10:00:00.000Z' });
const { pool } = app.database;
const path = '/v1/export-configs/status';
await app.putEnvironment('acme');
await app.putEnvironment('on-pro', 'pro');
await app.putEnvironment('zeta');
const rows = [
  ['acme', 'b-failed', true],
  ['acme', 'a-never', true],
  ['acme', 'c-off', false],
  ['on-pro', 'a-successful', true],
  ['zeta', 'a-running', true],
  ['zeta', 'b-deleted', false],
] as const;
for (const [environment, id, enabled] of rows) {
  await pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, access_key_id,
       sealed_secret, compression, manifest, active_since, deleted_at, created_at, updated_at)
     select $1::text, $2::text, 'Name of ' || $2, $3::boolean, 'daily', 'gcp', 'acme', 'eu', $2, 'id', 'sealed', 'none', false, at,
       case when $2 = 'b-deleted' then at end, at, at
     from (values ('2026-03-01T10:00:00Z'::timestamptz)) as made (at)`,
    [environment, id, enabled],
  );
}
const runs = [
  ['acme', 'b-failed', 'successful', '2026-03-01T00:00:09Z'],
  ['acme', 'b-failed', 'failed', '2026-03-02T00:00:09Z'],
  ['acme', 'c-off', 'failed', '2026-03-02T00:00:09Z'],
  ['on-pro', 'a-successful', 'failed', '2026-03-01T00:00:09Z'],
  ['on-pro', 'a-successful', 'successful', '2026-03-02T00:00:09Z'],
  ['zeta', 'a-running', 'running', null],
  ['zeta', 'b-deleted', 'failed', '2026-03-02T00:00:09Z'],
];
for (const [index, [environment, config, state, finishedAt]] of runs.entries()) {
  await pool.query(
    `insert into export_runs (environment_id, config_id, id, trigger, snapshot_date, state, created_at, finished_at, error_code, error_message)
     values ($1, $2, $3, 'manual', '2026-02-28', $4::text, now(), $5, case when $4 = 'failed' then 'timeout' end,
       case when $4 = 'failed' then 'It took too long.' end)`,
    [environment, config, `run-${index}`, state, finishedAt],
  );
}
const list = async (query = '') => {
  const answer = await app.call(`${path}${query}`);
  t.equal(answer.status, 200, answer.text);
  return answer.json;
};
const idsOf = async (query = '') =>
  (await list(query)).items.map((item: { configId: string }) => item.configId);
const all = ['a-never', 'b-failed', 'c-off', 'a-successful', 'a-running'];

t.test('lists the configs of all environments with their status', async t => {
  const { items, nextCursor } = await list();
  t.equal(nextCursor, null);
  t.strictSame(
    items.map((item: { configId: string }) => item.configId),
    all,
  );
  for (const { environmentId, configId, name, enabled, ...status } of items) {
    const at = `/v1/environments/${environmentId}/export-configs/${configId}`;
    t.match((await app.call(at)).json, { name, enabled });
    t.strictSame(status, (await app.call(`${at}/status`)).json, configId);
  }
  t.match(items[1], {
    environmentId: 'acme',
    configId: 'b-failed',
    name: 'Name of b-failed',
    enabled: true,
    status: 'failed',
    lastSuccessfulRunAt: '2026-03-01T00:00:09.000Z',
    nextRunAt: '2026-03-04T00:00:00.000Z',
    error: { code: 'timeout' },
  });
  t.match(items[3], { environmentId: 'on-pro', nextRunAt: null });
  t.match(items[4], { status: 'never ran before', running: true });
});

t.test('filters by status and by enabled', async t => {
  t.strictSame(await idsOf('?status=failed'), ['b-failed', 'c-off']);
  t.strictSame(await idsOf('?status=successful'), ['a-successful']);
  t.strictSame(await idsOf('?status=never%20ran%20before'), ['a-never', 'a-running']);
  t.strictSame(await idsOf('?enabled=false'), ['c-off']);
  t.strictSame(await idsOf('?status=failed&enabled=true'), ['b-failed']);
});

t.test('pages through the list, with and without a filter', async t => {
  for (const [filter, expected] of [
    ['', all],
    ['&status=failed', ['b-failed', 'c-off']],
  ] as const) {
    const found: string[] = [];
    let cursor: string | null = null;
    do {
      const at: string = cursor === null ? '' : `&cursor=${cursor}`;
      const page = await list(`?limit=1${filter}${at}`);
      t.equal(page.items.length, 1);
      found.push(page.items[0].configId);
      cursor = page.nextCursor;
    } while (cursor !== null);
    t.strictSame(found, expected);
  }
});

t.test('refuses invalid filters', async t => {
  for (const [query, field] of [
    ['?status=running', '/query/status'],
    ['?enabled=1', '/query/enabled'],
    ['?limit=0', '/query/limit'],
    ['?cursor=x', '/query/cursor'],
  ] as const) {
    const { status, json } = await app.call(`${path}${query}`);
    t.equal(status, 400, query);
    t.equal(json.errors[0].path, field);
  }
});
