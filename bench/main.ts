import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { startPostgresServer } from '../dev/postgres-server.ts';
import { startS3Server, whyNoS3Server } from '../dev/s3-server.ts';
import { createPool } from '../src/db/connect.ts';
import { migrateToLatest } from '../src/db/migrator.ts';
import type { Bench, Section } from './bench.ts';
import { measureBloat } from './bloat.ts';
import { measureCosts } from './costs.ts';
import { measureDownloads } from './downloads.ts';
import { fillSnapshot } from './fill.ts';
import { measureGrowth } from './growth.ts';
import { measureIngests } from './ingests.ts';
import { measureLatency } from './latency.ts';
import { measureMemory } from './memory.ts';
import { measureParquet } from './parquet.ts';
import { parentOf } from './proc.ts';
import { hasProgram } from './processes.ts';
import { asText, describeMachine, writeReport } from './report.ts';
import { measureRuns } from './runs.ts';

const usage = `Compares this service with other ways to do the same work, on the same rows, in turns.

  npm run bench                      all measurements, 15 to 30 minutes on 2 cores
  npm run bench -- --quick           a trial of less than a minute; its figures mean nothing
  npm run bench -- --only downloads,ingests

  --rows <n>     rows of the day that is exported and ingested (default 1000000)
  --rounds <n>   number of times each value is measured (default 5)
  --only <names> downloads, parquet, runs, costs, latency, memory, ingests, growth (default: all of these), bloat (5 minutes more)
  --write        also writes table and plot to docs/performance.md and .svg, not only to bench/out
  --help         this text

Starts the Postgres of the npm package, or uses the empty database of DATABASE_URL and leaves its rows there.
Uses psql, aws (Debian: awscli) and the S3 server (Debian: ceph-mon ceph-osd radosgw ceph-common, as root) if they are
installed. The report names the measurements that are skipped without them.`;

/**
 * Measurements in the order of a run. Ingests run late, because background work of Postgres follows
 * them.
 */
const measurements: Readonly<Record<string, (bench: Bench) => Promise<Section>>> = {
  downloads: measureDownloads,
  parquet: measureParquet,
  runs: measureRuns,
  costs: measureCosts,
  latency: measureLatency,
  memory: measureMemory,
  ingests: measureIngests,
  growth: measureGrowth,
  bloat: measureBloat,
};

/**
 * Measurements that run by default. Bloat takes as long as all the others, and its figures change
 * with Postgres alone.
 */
const usual = Object.keys(measurements).filter(name => name !== 'bloat');

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rows: { type: 'string' },
    rounds: { type: 'string' },
    only: { type: 'string', default: usual.join(',') },
    write: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
const wanted = values.only.split(',');
const unknown = wanted.filter(name => measurements[name] === undefined);
if (values.help) console.log(usage);
else if (unknown.length > 0)
  throw new Error(`Unknown measurement ${unknown.join(', ')}; see --help`);
else await main();

async function main(): Promise<void> {
  const cleanups: (() => Promise<void> | void)[] = [];
  const loadAtStart = os.loadavg()[0] ?? 0;
  const cleanUp = async () => {
    for (let cleanup = cleanups.pop(); cleanup !== undefined; cleanup = cleanups.pop())
      await cleanup();
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => cleanUp().finally(() => process.exit(1)));
  }
  try {
    const bench = await prepare(cleanups);
    const sections: Section[] = [];
    for (const name of wanted) {
      console.error(`${name} (after ${Math.round(performance.now() / 1000)} s)`);
      const section = await measurements[name]?.(bench);
      if (section !== undefined) sections.push(section);
    }
    const report = { sections, machine: await describeMachine(bench, loadAtStart) };
    console.log(asText(report));
    writeReport(report, values.write);
  } finally {
    await cleanUp();
  }
}

async function prepare(cleanups: (() => Promise<void> | void)[]): Promise<Bench> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'warehouse-export-bench-'));
  cleanups.push(() => fs.rmSync(directory, { recursive: true, force: true }));

  const given = process.env['DATABASE_URL'];
  const server = given
    ? null
    : await startPostgresServer({ settings: { shared_buffers: '512MB', max_wal_size: '4GB' } });
  if (server !== null) cleanups.push(server.remove);
  const databaseUrl = given || (server?.url ?? '');
  await migrateToLatest(databaseUrl);
  const pool = createPool({
    url: databaseUrl,
    applicationName: 'bench',
    maxConnections: 4,
    statementTimeoutMs: 0,
    onIdleError: () => {},
  });
  cleanups.push(() => pool.end());

  const noS3 =
    wanted.includes('runs') || wanted.includes('costs') ? whyNoS3Server(false) : 'not asked for';
  const s3 = noS3 === null ? await startS3Server() : null;
  if (s3 !== null) cleanups.push(s3.remove);

  const rows = Number(values.rows ?? (values.quick ? 20_000 : 1_000_000));
  const bench: Bench = {
    databaseUrl,
    pool,
    directory,
    date: new Date(Date.now() - 24 * 60 * 60 * 1000).toISOString().slice(0, 10),
    environmentId: 'bench',
    rows,
    rounds: Number(values.rounds ?? (values.quick ? 1 : 5)),
    sizes: values.quick ? [5_000, 20_000, 80_000] : [500_000, 2_000_000, 8_000_000],
    configCounts: values.quick ? [10, 100] : [100, 1_000, 10_000],
    hasPsql: hasProgram('psql'),
    postmasterPid: server === null ? null : await postmasterPid(pool),
    s3: s3?.server ?? null,
  };
  console.error(`filling the database with ${rows.toLocaleString('en')} rows`);
  await fillSnapshot(pool, bench);
  return bench;
}

/** Returns the process of the server: the parent of the process of every connection. */
async function postmasterPid(pool: Bench['pool']): Promise<number> {
  const { rows } = await pool.query<{ pid: number }>('select pg_backend_pid() as pid');
  return parentOf(rows[0]?.pid ?? 0);
}
