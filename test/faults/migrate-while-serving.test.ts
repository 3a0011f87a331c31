import { randomUUID } from 'node:crypto';
import fs from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { FileMigrationProvider, Migrator } from 'kysely/migration';
import pg from 'pg';
import t, { type Test } from 'tap';
import { startPostgresServer } from '../../dev/postgres-server.ts';
import { createKysely, createPool } from '../../src/db/connect.ts';
import { installJobQueue } from '../../src/db/job-queue.ts';
import { migrateToLatest } from '../../src/db/migrator.ts';
import { lowestOf } from '../helpers/lowest-of.ts';

/**
 * Runs the newest migrations while the previous version serves. The statements of that version are
 * in this file.
 */

t.setTimeout(400_000);

const released = '0003-automatic-exports';
const migrationFolder = path.join(import.meta.dirname, '../../migrations');

/**
 * Starts a database of an earlier version with an environment, a config and the rows of one day.
 *
 * @param migration the newest migration of that version
 */
async function start(t: Test, migration = released) {
  const server = await startPostgresServer();
  t.teardown(server.remove);
  const pool = createPool({
    url: server.url,
    applicationName: 'test',
    maxConnections: 1,
    statementTimeoutMs: 0,
    onIdleError: () => {},
  });
  const db = createKysely(pool);
  const provider = new FileMigrationProvider({ fs, path, migrationFolder });
  const { error } = await new Migrator({ db, provider }).migrateTo(migration);
  await db.destroy();
  if (error !== undefined) throw error;
  await installJobQueue(server.url);
  const connect = async () => {
    const client = new pg.Client({ connectionString: server.url });
    client.on('error', () => {});
    await client.connect();
    t.teardown(() => client.end());
    return client;
  };
  const client = await connect();
  await client.query(
    `insert into environments (id, name, plan) values ('acme', 'Acme', 'enterprise')`,
  );
  await client.query(`select ensure_snapshot_partition('2026-03-01')`);
  await client.query(insertRows, ['2026-03-01', 20_000]);
  await client.query(registerSnapshot, ['2026-03-01', 20_000]);
  const config = randomUUID();
  await client.query(insertConfig, [config]);
  return { server, connect, client, config };
}

const insertRows = `
  insert into snapshot_rows (environment_id, snapshot_date, company_id, company_name, feature_id, feature_name,
    first_seen, last_seen, first_used, last_used, stars_state, frequency, satisfaction, feedback_count, segment_names, segment_ids)
  select 'acme', $1::date, 'c' || n, repeat('x', 200), 'f1', 'Export', now(), now(), null, null, 1, 0, null, 0, '', ''
  from generate_series(1, $2::int) as n`;
const registerSnapshot = `
  insert into snapshots (environment_id, snapshot_date, row_count, completed_at)
  values ('acme', $1::date, $2, now())
  on conflict (environment_id, snapshot_date) do update
    set version = default, row_count = excluded.row_count, completed_at = excluded.completed_at
  returning (xmax = 0) as created`;
const insertConfig = `
  insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
    access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at)
  values ('acme', $1, 'Nightly', true, 'daily', 'aws', 'b', 'r', '', null, 'id', 'sealed', 'none', false, now(), now(), now())`;
const insertRun = `
  insert into export_runs (environment_id, config_id, id, trigger, slot, snapshot_date, state, created_at)
  values ('acme', $1, $2, 'schedule', $3, '2026-03-01', 'queued', now())`;
/** Statements of one attempt at a run, in order: started, upload started, completed. */
const attempt = [
  `update export_runs set job_id = gen_random_uuid() where environment_id = 'acme' and id = $1`,
  `update export_runs set state = 'running', attempts = 1, started_at = coalesce(started_at, now()), error_code = null,
     error_message = null, upload_id = null
   where environment_id = 'acme' and id = $1 and state in ('queued', 'running')`,
  `update export_runs set upload_id = 'u' where environment_id = 'acme' and id = $1 and state = 'running'`,
  `update export_runs set state = 'successful', finished_at = now(), row_count = 1, bytes = 1, sha256 = 's', object_key = 'k',
     job_id = null, upload_id = null
   where environment_id = 'acme' and id = $1 and state = 'running'`,
];
const changeConfig = `update export_configs set name = 'Other', updated_at = now() where environment_id = 'acme' and id = $1 and deleted_at is null`;
const authorize = `select id, name, plan, created_at, updated_at from environments where id = 'acme'`;
const listConfigs = `select * from export_configs where environment_id = 'acme' and deleted_at is null`;

const listRuns = `select * from export_runs where environment_id = 'acme'`;
const listSnapshots = `select * from snapshots where environment_id = 'acme'`;

/**
 * Repeats `work` until the returned function is called, which resolves to the longest duration in
 * milliseconds.
 */
function longest(work: () => Promise<unknown>) {
  const over = new AbortController();
  let longestMs = 0;
  const done = (async () => {
    while (!over.signal.aborted) {
      const startedAt = performance.now();
      await work();
      longestMs = Math.max(longestMs, performance.now() - startedAt);
      await delay(5);
    }
  })();
  return async () => {
    over.abort();
    await done;
    return longestMs;
  };
}

t.test('migrates without waiting for long downloads and ingests, which then complete', async t => {
  const longestMs = await lowestOf(2, 1_500, () => migrateBesideLongWork(t));
  t.ok(longestMs < 1_500, `the longest round of short statements took ${Math.round(longestMs)} ms`);
});

/** Returns the duration of the longest round of short statements in milliseconds. */
async function migrateBesideLongWork(t: Test): Promise<number> {
  const { server, connect, client, config } = await start(t);
  // A download or run that has read the registry and some of its rows.
  const reader = await connect();
  await reader.query('begin isolation level repeatable read read only');
  await reader.query(`select * from snapshots where environment_id = 'acme'`);
  await reader.query(
    `declare rows cursor for select * from snapshot_rows where environment_id = 'acme' and snapshot_date = '2026-03-01' order by company_id`,
  );
  t.equal((await reader.query('fetch 100 from rows')).rowCount, 100);
  // An ingest in its longest phase, while it moves the rows.
  const loader = await connect();
  await loader.query(`select ensure_snapshot_partition('2026-03-02')`);
  await loader.query('begin');
  await loader.query(
    `select pg_try_advisory_xact_lock(hashtextextended('warehouse-export snapshot acme 2026-03-02', 0))`,
  );
  await loader.query('create temporary table staging (company_id text) on commit drop');
  await loader.query(`select from environments where id = 'acme' for key share`);
  await loader.query(
    `delete from snapshot_rows where environment_id = 'acme' and snapshot_date = '2026-03-02'`,
  );
  await loader.query(insertRows, ['2026-03-02', 1_000]);

  // Short statements continue during the migration.
  const callers = await connect();
  let slot = Date.parse('2026-03-02');
  const untilEnd = longest(async () => {
    await callers.query(authorize);
    await callers.query(listConfigs);
    await callers.query(changeConfig, [config]);
    const run = randomUUID();
    slot += 86_400_000;
    await callers.query(insertRun, [config, run, new Date(slot)]);
    for (const statement of attempt) await callers.query(statement, [run]);
  });
  const startedAt = performance.now();
  const migrated = await migrateToLatest(server.url);
  const tookMs = performance.now() - startedAt;
  const longestMs = await untilEnd();
  t.ok(migrated.length > 0, migrated.join(', '));
  t.ok(tookMs < 30_000, `the migrations took ${Math.round(tookMs)} ms`);
  const { rows: waiting } = await client.query('select * from pg_locks where not granted');
  t.strictSame(waiting, []);

  t.equal((await reader.query('fetch all from rows')).rowCount, 19_900, 'the download completes');
  await reader.query('commit');
  await loader.query(registerSnapshot, ['2026-03-02', 1_000]);
  await loader.query('commit');
  const { rows } = await client.query(
    `select snapshot_date::text, row_count from snapshots order by 1`,
  );
  t.strictSame(rows, [
    { snapshot_date: '2026-03-01', row_count: '20000' },
    { snapshot_date: '2026-03-02', row_count: '1000' },
  ]);
  t.strictSame(await migrateToLatest(server.url), [], 'a second migration does nothing');
  return longestMs;
}

t.test('does not block callers while a migration waits for a lock', async t => {
  for (const table of ['environments', 'export_configs', 'export_runs', 'snapshots']) {
    await t.test(table, async t => {
      const longestMs = await lowestOf(2, 2_500, () => migrateBesideLock(t, table));
      t.ok(longestMs < 2_500, `callers waited at most ${Math.round(longestMs)} ms`);
    });
  }
});

/**
 * Holds a lock longer than any of the service, as a backup or an open psql session may do.
 *
 * @returns the longest wait of callers in milliseconds
 */
async function migrateBesideLock(t: Test, table: string): Promise<number> {
  const { server, connect } = await start(t);
  const holder = await connect();
  await holder.query('begin');
  await holder.query(`lock table ${table} in row exclusive mode`);
  const callers = await connect();
  const untilEnd = longest(async () => {
    for (const statement of [authorize, listConfigs, listRuns, listSnapshots])
      await callers.query(statement);
  });
  const migrating = migrateToLatest(server.url);
  await delay(5_000);
  await holder.query('rollback');
  t.ok((await migrating).length > 0, 'the migration completes');
  return await untilEnd();
}

t.test('never makes a statement of the service fail with a deadlock', async t => {
  const cases = [
    { since: released, table: 'export_runs', next: 'export_configs' },
    { since: released, table: 'export_configs', next: 'snapshots' },
    { since: '0011-caller-request-ids', table: 'export_runs', next: 'export_configs' },
    { since: '0015-export-format', table: 'snapshots', next: 'rendered_snapshots' },
  ];
  for (const tables of cases) {
    const { since, table, next } = tables;
    await t.test(`${table}, then ${next}, since ${since}`, async t => {
      // The migration gives way before Postgres looks for a deadlock, unless the machine stalls.
      const failure =
        (await migrateBesideTransaction(t, tables)) && (await migrateBesideTransaction(t, tables));
      t.equal(failure, null);
    });
  }
});

/** Returns the error of a transaction that locks a table and then one that the migration holds. */
async function migrateBesideTransaction(
  t: Test,
  { since, table, next }: { since: string; table: string; next: string },
): Promise<Error | null> {
  const { server, connect } = await start(t, since);
  const caller = await connect();
  await caller.query('begin');
  await caller.query(`set local statement_timeout = '60s'`);
  await caller.query(`lock table ${table} in row exclusive mode`);
  const migrating = migrateToLatest(server.url);
  // The caller asks for the second table as soon as the migration holds it.
  const failure = await caller
    .query(`
      do $$ begin
        loop
          exit when exists (select from pg_locks where relation = '${next}'::regclass and granted
            and mode in ('ShareLock', 'ShareRowExclusiveLock', 'AccessExclusiveLock'));
        end loop;
        lock table ${next} in row exclusive mode;
      end $$`)
    .then(
      () => null,
      (error: Error) => error,
    );
  await caller.query('commit');
  t.ok((await migrating).length > 0, 'the migration completes');
  return failure;
}

t.test('supports the statements of the previous version after a migration', async t => {
  const { server, client, config } = await start(t);
  await migrateToLatest(server.url);
  const other = randomUUID();
  const run = randomUUID();
  await client.query(insertConfig, [other]);
  for (const id of [config, other]) t.equal((await client.query(changeConfig, [id])).rowCount, 1);
  await client.query(insertRun, [other, run, '2026-03-02T00:00:00Z']);
  for (const statement of attempt)
    t.equal((await client.query(statement, [run])).rowCount, 1, statement);
  for (const statement of [authorize, listConfigs]) t.ok((await client.query(statement)).rowCount);
  await client.query(`select ensure_snapshot_partition('2026-03-03')`);
  await client.query(insertRows, ['2026-03-03', 10]);
  t.strictSame((await client.query(registerSnapshot, ['2026-03-03', 10])).rows, [
    { created: true },
  ]);
  await client.query(`delete from export_configs where id = $1`, [other]);
  await client.query(`delete from environments where id = 'acme'`);
  t.equal(
    (await client.query('select from export_runs')).rowCount,
    0,
    'runs are deleted with their environment',
  );
});
