import { waitFor } from '../test/helpers/wait-for.ts';
import type { Bench, Section } from './bench.ts';
import { serverCpuSeconds } from './proc.ts';
import { forgetRendering } from './rendering.ts';
import { makeConfig } from './runs.ts';
import { startService } from './service.ts';

const smallRuns = 100;

/**
 * Measures the core-seconds that runs cost the worker and the database, for docs/scaling.md.
 * Compares one large run with many of one row.
 */
export async function measureCosts(bench: Bench): Promise<Section> {
  const title = 'Cost of runs';
  if (bench.s3 === null || bench.postmasterPid === null) {
    const notes = ['Skipped: needs the S3 server, and a Postgres server that the bench started.'];
    return { title, columns: [''], rows: [], goals: [], notes, bars: [] };
  }
  const service = await startService({
    ...bench,
    env: { PROCESS_ROLE: 'all', S3_ENDPOINT_ALLOWLIST: '127.0.0.1' },
  });
  const postmaster = bench.postmasterPid;
  try {
    const large = await makeConfig(service, bench, 'none', 'costs');
    const configs: [string, string][] = [];
    await bench.pool.query(
      `insert into environments (id, name, plan) select 'one-' || n, 'one', 'enterprise' from generate_series(1, $1::int) as n`,
      [smallRuns],
    );
    await bench.pool.query(
      `with chosen as (select * from snapshot_rows where environment_id = $1 and snapshot_date = $2 limit 1),
         copied as (insert into snapshot_rows select 'one-' || n, snapshot_date, company_id, company_name, feature_id, feature_name,
           first_seen, last_seen, first_used, last_used, stars_state, frequency, satisfaction, feedback_count, segment_names, segment_ids
           from chosen, generate_series(1, $3::int) as n)
       insert into snapshots (environment_id, snapshot_date, row_count) select 'one-' || n, $2, 1 from generate_series(1, $3::int) as n`,
      [bench.environmentId, bench.date, smallRuns],
    );
    for (let n = 1; n <= smallRuns; n += 1) {
      const environmentId = `one-${n}`;
      configs.push([
        environmentId,
        await makeConfig(service, { ...bench, environmentId }, 'none', 'costs'),
      ]);
    }
    const measure = async (runs: readonly [string, string][]) => {
      const before = [service.cpuSeconds(), serverCpuSeconds(postmaster)];
      for (const [environmentId, configId] of runs) {
        const where = `/v1/environments/${environmentId}/export-configs/${configId}/runs`;
        await service.call(where, { method: 'POST', json: { snapshotDate: bench.date } });
      }
      await untilFinished(bench);
      return [
        service.cpuSeconds() - (before[0] ?? 0),
        serverCpuSeconds(postmaster) - (before[1] ?? 0),
      ] as const;
    };
    await forgetRendering(bench);
    const unrendered = await measure([[bench.environmentId, large]]);
    const rendered = await measure([[bench.environmentId, large]]);
    const many = await measure(configs);
    const perRow = (costs: readonly number[]) =>
      costs.map(seconds => ((seconds / bench.rows) * 1e6).toFixed(2));
    const perRun = many.map(seconds => ((seconds / smallRuns) * 1e3).toFixed(1));
    const largeRun = `a run of ${bench.rows.toLocaleString('en')}`;
    return {
      title,
      columns: ['core time', 'worker', 'database'],
      rows: [
        [`per row (${largeRun}, rendered first), µs`, ...perRow(unrendered)],
        [`per row (${largeRun}, already rendered), µs`, ...perRow(rendered)],
        [`per run (${smallRuns} of one row), ms`, ...perRun],
      ],
      goals: [],
      notes: [
        'Plain files. A run of one row renders its snapshot first. The worker’s cost of a run includes the HTTP request that starts it.',
      ],
      bars: [],
    };
  } finally {
    await service.stop();
  }
}

async function untilFinished(bench: Bench): Promise<void> {
  const countUnfinished = async () => {
    const { rows } = await bench.pool.query<{ state: string; count: number }>(
      'select state, count(*) as count from export_runs group by state',
    );
    const count = (...states: string[]) =>
      rows.filter(({ state }) => states.includes(state)).reduce((sum, row) => sum + row.count, 0);
    if (count('failed') > 0) throw new Error('a run failed');
    return count('queued', 'running');
  };
  await waitFor('the end of all runs', countUnfinished, {
    isWanted: left => left === 0,
    limitMs: Number.POSITIVE_INFINITY,
  });
}
