import t from 'tap';
import { tidyUp } from '../../src/retention/tidy-up.ts';
import { startTestApp, testNow } from '../helpers/app.ts';

const settings = { snapshots: 'needed', runDays: 90, auditDays: 400 } as const;
const never = new AbortController().signal;

t.test('deletes old runs, except the runs that other features need', async t => {
  const app = await startTestApp(t);
  const { pool } = app.database;
  await app.putEnvironment('acme');
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
  t.match(await tidyUp(app.dependencies.db, settings, new Date(testNow), never), { runs: 6 });
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
  t.match(await tidyUp(app.dependencies.db, settings, new Date(testNow), never), { runs: 0 });
  t.equal((await app.call('/v1/audit-log?action=export_runs.expired')).json.items.length, 1);
});

t.test('deletes old lines of the audit log in batches', async t => {
  const app = await startTestApp(t);
  const { pool } = app.database;
  await pool.query(
    `insert into audit_log (at, actor_kind, action, details)
     select $1::timestamptz - n * interval '1 hour', 'operator', 'environment.created', '{}' from generate_series(1, 16000) as n`,
    [testNow],
  );
  const done = await tidyUp(app.dependencies.db, settings, new Date(testNow), never);
  t.equal(done.auditLines, 16_000 - 9_600);
  const { rows } = await pool.query(
    `select action, count(*)::int as lines, sum((details ->> 'count')::int)::int as told, min(at) as oldest from audit_log group by action order by action`,
  );
  t.match(rows, [
    { action: 'audit_log.expired', lines: 2, told: 6_400 },
    { action: 'environment.created', lines: 9_600, oldest: new Date('2025-01-26T10:00:00.000Z') },
  ]);
});
