import { randomUUID } from 'node:crypto';
import { createKysely, createPool } from '../src/db/connect.ts';
import { createJobQueue } from '../src/db/job-queue.ts';
import { enqueueDue } from '../src/export-runs/enqueue-due.sql.ts';
import { type Bench, formatNumber, type Goal, type Section } from './bench.ts';
import { dayFile } from './downloads.ts';
import { fillSnapshot } from './fill.ts';
import { insertConfigs } from './insert-configs.ts';
import { alternate, median, timed } from './measure.ts';
import { download } from './processes.ts';
import { startService } from './service.ts';

/**
 * Fewer rounds than in other measurements. The largest file is measured once, because it takes as
 * long as all the others together.
 */
const maxRounds = 2;

/**
 * Measures how the time of a download without a rendering grows with its rows. Measures how the
 * time of a tick grows with the configs that are due.
 */
export async function measureGrowth(bench: Bench): Promise<Section> {
  const rounds = Math.min(maxRounds, bench.rounds);
  const service = await startService(bench);
  const contenders = bench.sizes.map((rows, index) => ({
    name: `${rows.toLocaleString('en')} rows`,
    maxRounds: index === bench.sizes.length - 1 ? 1 : rounds,
    run: async () => (await download(service, dayFile(`grown-${rows}`))).seconds,
  }));
  try {
    for (const rows of bench.sizes) {
      const { date, pool } = bench;
      await fillSnapshot(pool, { environmentId: `grown-${rows}`, date, rows });
    }
    const seconds = [...(await alternate(contenders, rounds)).values()].map(times => times.median);
    const last = bench.sizes.length - 1;
    const growth = (seconds[last] ?? Number.NaN) / (seconds[last - 1] ?? Number.NaN);
    const goal: Goal = {
      text: `growth: ${bench.sizes[last]?.toLocaleString('en')} rows ≤ 4.2 × ${bench.sizes[last - 1]?.toLocaleString('en')} rows`,
      kind: 'at most',
      wanted: 4.2,
      value: growth,
    };
    const files = bench.sizes.map((rows, index) => [
      `${rows.toLocaleString('en')} rows`,
      (seconds[index] ?? Number.NaN).toFixed(2),
      `${formatNumber(rows / (seconds[index] ?? Number.NaN))} rows/s`,
    ]);
    const ticks = await measureTicks(bench);
    return {
      title: 'Growth',
      columns: ['download without a rendering, or one tick', 'seconds', 'rate'],
      rows: [...files, ...ticks],
      goals: [goal],
      notes: [`Downloads: median of ${rounds}, the largest once.`],
      bars: [],
    };
  } finally {
    await service.stop();
    // Deletes the rows only on a server that the bench did not start. Deleting takes a while.
    if (bench.postmasterPid === null) {
      await bench.pool.query(`delete from snapshots where environment_id like 'grown-%'`);
      await bench.pool.query(`delete from snapshot_rows where environment_id like 'grown-%'`);
    }
  }
}

/** Measures ticks. Every config has a snapshot to export, so each becomes a run and a job. */
async function measureTicks(bench: Bench): Promise<string[][]> {
  const options = {
    url: bench.databaseUrl,
    applicationName: 'bench',
    statementTimeoutMs: 0,
    onIdleError: () => {},
  };
  const pool = createPool({ ...options, maxConnections: 2 });
  const jobsPool = createPool({ ...options, maxConnections: 2 });
  const db = createKysely(pool);
  const boss = createJobQueue(jobsPool, () => {});
  const rows: string[][] = [];
  try {
    for (const count of bench.configCounts) {
      const environmentId = `tick-${randomUUID()}`;
      await bench.pool.query(
        `insert into environments (id, name, plan) values ($1, $1, 'enterprise')`,
        [environmentId],
      );
      await bench.pool.query(
        'insert into snapshots (environment_id, snapshot_date, row_count) values ($1, $2, 0)',
        [environmentId, bench.date],
      );
      await insertConfigs(bench.pool, environmentId, count);
      // Autovacuum does this within a minute. Otherwise foreign key checks keep a plan for the old
      // table sizes.
      await bench.pool.query('analyze export_configs');
      const seconds: number[] = [];
      for (let round = 0; round < bench.rounds; round += 1) {
        seconds.push(await timed(() => enqueueDue(db, boss, new Date())));
        await bench.pool.query('delete from pgboss.job');
        const { rowCount } = await bench.pool.query(
          'delete from export_runs where environment_id = $1',
          [environmentId],
        );
        if (rowCount !== count) throw new Error(`${rowCount} runs of ${count} configs`);
      }
      await bench.pool.query('delete from environments where id = $1', [environmentId]);
      const taken = median(seconds);
      rows.push([
        `${count.toLocaleString('en')} configs due`,
        taken.toFixed(3),
        `${formatNumber(count / taken)} runs/s`,
      ]);
    }
  } finally {
    await db.destroy();
    await jobsPool.end();
  }
  return rows;
}
