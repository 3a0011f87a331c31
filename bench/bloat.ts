import { setTimeout as delay } from 'node:timers/promises';
import type { Pool } from 'pg';
import type { Bench, Section } from './bench.ts';
import { featuresPerCompany, fillSnapshot } from './fill.ts';

/**
 * Pause between two changes. Autovacuum runs every second instead of every minute, so that a pause
 * of 3 s corresponds to 3 minutes.
 */
const pauseMs = 3_000;
/** Number of equal environments in a day's partition. One of them is replaced repeatedly. */
const environments = 20;

/** Table whose rows are replaced repeatedly. */
interface Contender {
  readonly name: string;
  readonly table: string;
  /** Makes one change: one ingest, one update of the registry or one night of runs. */
  readonly change: () => Promise<void>;
}

/**
 * Measures how much tables grow that are rewritten often, with and without the settings of the
 * migrations.
 */
export async function measureBloat(bench: Bench): Promise<Section> {
  const { pool } = bench;
  const counts = bench.rounds > 1 ? [1, 10, 100] : [1, 2, 5];
  const isOurs = bench.postmasterPid !== null;
  if (isOurs) await setNaptime(pool, '1s');
  const contenders: Contender[] = [];
  try {
    for (const isBare of [false, true]) {
      contenders.push(await makeDay(bench, isBare));
      contenders.push(await makeRegistry(pool, isBare));
      contenders.push(await makeRuns(pool, isBare));
    }
    const sizes = new Map<Contender, string[]>();
    const measure = async () => {
      for (const contender of contenders) {
        sizes.set(contender, [
          ...(sizes.get(contender) ?? []),
          await sizeOf(pool, contender.table),
        ]);
      }
    };
    await measure();
    for (let count = 1; count <= (counts.at(-1) ?? 0); count += 1) {
      for (const { change } of contenders) await change();
      await delay(pauseMs);
      if (counts.includes(count)) await measure();
      if (count % 10 === 0) console.error(`  ${count} changes`);
    }
    const rows: string[][] = [];
    for (const { name, table } of contenders) {
      const found = [...sizes].find(([contender]) => contender.table === table)?.[1] ?? [];
      rows.push([name, ...found, await countVacuums(pool, table)]);
    }
    const each = Math.round(bench.rows / environments).toLocaleString('en');
    return {
      title: 'Growth of tables that are rewritten often',
      columns: [
        'MiB, table + indexes',
        'fresh',
        ...counts.map(count => `after ${count}`),
        'vacuums',
      ],
      rows: rows.toSorted((a, b) => ((a[0] ?? '') < (b[0] ?? '') ? -1 : 1)),
      goals: [],
      notes: [
        `A day of ${bench.rows.toLocaleString('en')} rows, ${each} of them replaced by each change. The registry holds 60 days of 1,000 environments; each change updates the newest day. The runs are those of 100 configs in 100 nights; each change adds a night.`,
        isOurs
          ? `The tables take turns, with one change of each every ${pauseMs / 1000} s. Autovacuum runs every second instead of every minute.`
          : 'The bench does not change autovacuum_naptime of a server that it did not start, so vacuums run late.',
      ],
      bars: [],
    };
  } finally {
    for (const { table } of contenders) await pool.query(`drop table if exists ${table}`);
    await pool.query(`delete from snapshots where snapshot_date < '2002-01-01'`);
    if (isOurs) await setNaptime(pool, 'default');
  }
}

async function setNaptime(pool: Pool, value: string): Promise<void> {
  await pool.query(
    `alter system set autovacuum_naptime = ${value === 'default' ? value : `'${value}'`}`,
  );
  await pool.query('select pg_reload_conf()');
}

const nameOf = (what: string, isBare: boolean) =>
  `${what}, ${isBare ? 'without settings' : 'as migrated'}`;

async function makeDay({ pool, rows }: Bench, isBare: boolean): Promise<Contender> {
  const day = isBare ? '2001-01-02' : '2001-01-01';
  const table = `snapshot_rows_${day.replaceAll('-', '')}`;
  await pool.query('select ensure_snapshot_partition($1)', [day]);
  if (isBare) await resetSettings(pool, table);
  const replaced = Math.round(rows / environments / featuresPerCompany) * featuresPerCompany;
  await fillSnapshot(pool, { environmentId: 'stays', date: day, rows: rows - replaced });
  await fillSnapshot(pool, { environmentId: 'replaced', date: day, rows: replaced });
  const its = `environment_id = 'replaced' and snapshot_date = '${day}'`;
  return {
    name: nameOf('a day’s partition', isBare),
    table,
    // Replaces the snapshot as an ingest does, in one transaction.
    change: async () => {
      await pool.query(`
        begin;
        create temporary table staging on commit drop as select * from snapshot_rows where ${its};
        delete from snapshot_rows where ${its};
        insert into snapshot_rows select * from staging;
        commit`);
    },
  };
}

async function makeRegistry(pool: Pool, isBare: boolean): Promise<Contender> {
  const table = `bloat_registry_${isBare ? 'bare' : 'set'}`;
  await copyTable(pool, 'snapshots', table, isBare);
  await pool.query(
    `insert into ${table} (environment_id, snapshot_date, row_count)
     select 'e' || e, date '2001-01-01' + d, 1 from generate_series(1, 60) as d, generate_series(1, 1000) as e`,
  );
  return {
    name: nameOf('snapshots', isBare),
    table,
    change: async () => {
      await pool.query(
        `update ${table} set version = default, row_count = 2, completed_at = now() where snapshot_date = date '2001-01-01' + 60`,
      );
    },
  };
}

async function makeRuns(pool: Pool, isBare: boolean): Promise<Contender> {
  const table = `bloat_runs_${isBare ? 'bare' : 'set'}`;
  await copyTable(pool, 'export_runs', table, isBare);
  let night = 0;
  const insert = async () => {
    night += 1;
    await pool.query(
      `insert into ${table} (environment_id, config_id, id, trigger, slot, snapshot_date, state, created_at)
       select 'e' || n, 'c' || n, gen_random_uuid()::text, 'schedule', date '2001-01-01' + $1::int, date '2001-01-01', 'queued', now()
       from generate_series(1, 100) as n`,
      [night],
    );
    // The changes of a run that succeeds.
    for (const change of [
      'job_id = gen_random_uuid()',
      `state = 'running', attempts = 1, started_at = now()`,
      `upload_id = 'an-upload'`,
      `state = 'successful', finished_at = now(), row_count = 1, bytes = 1, sha256 = repeat('0', 64), object_key = 'k', job_id = null, upload_id = null`,
    ]) {
      await pool.query(`update ${table} set ${change} where slot = date '2001-01-01' + $1::int`, [
        night,
      ]);
    }
  };
  for (let count = 0; count < 100; count += 1) await insert();
  await pool.query(`vacuum full ${table}`);
  return { name: nameOf('export_runs', isBare), table, change: insert };
}

/** Copies a table with indexes and constraints. Copies the storage parameters unless `isBare`. */
async function copyTable(pool: Pool, from: string, to: string, isBare: boolean): Promise<void> {
  const { rows } = await pool.query<{ settings: string | null }>(
    `select array_to_string(reloptions, ', ') as settings from pg_class where oid = $1::regclass`,
    [from],
  );
  const settings = rows[0]?.settings ?? null;
  await pool.query(
    `create table ${to} (like ${from} including all) ${isBare || settings === null ? '' : `with (${settings})`}`,
  );
}

async function resetSettings(pool: Pool, table: string): Promise<void> {
  const { rows } = await pool.query<{ name: string }>(
    `select split_part(unnest(reloptions), '=', 1) as name from pg_class where oid = $1::regclass`,
    [table],
  );
  if (rows.length > 0)
    await pool.query(`alter table ${table} reset (${rows.map(({ name }) => name).join(', ')})`);
}

async function sizeOf(pool: Pool, table: string): Promise<string> {
  const { rows } = await pool.query<{ bytes: number[] }>(
    `select array[pg_table_size($1::regclass), pg_indexes_size($1::regclass)]::float8[] as bytes`,
    [table],
  );
  return (rows[0]?.bytes ?? []).map(bytes => (bytes / 1024 / 1024).toFixed(1)).join(' + ');
}

async function countVacuums(pool: Pool, table: string): Promise<string> {
  const { rows } = await pool.query<{ vacuums: number }>(
    'select autovacuum_count as vacuums from pg_stat_all_tables where relid = $1::regclass',
    [table],
  );
  return String(rows[0]?.vacuums ?? '');
}
