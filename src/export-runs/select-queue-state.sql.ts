import { sql } from 'kysely';
import type { Database } from '../db/database.ts';
import { renderQueue, runQueue } from '../db/job-queue.ts';
import type { QueueState } from '../observability/metrics.ts';
import { fromDueConfigs } from './enqueue-due.sql.ts';

/**
 * Reads the work that waits, in one statement. Each part uses an index of unfinished rows. Only the
 * search for late slots visits every enabled config, with one index probe each. `offset 0` keeps
 * the planner from reading all runs instead. That took four times as long with 10,000 configs of 30
 * runs.
 */
export async function selectQueueState(db: Database, now: Date): Promise<QueueState> {
  const { rows } = await sql<Record<string, number>>`
    with jobs as (
      select
        count(*) filter (where state < 'active' and start_after <= now())::int as ready,
        coalesce(extract(epoch from now() - min(start_after) filter (where state < 'active' and start_after <= now())), 0)::float8 as ready_seconds,
        count(*) filter (where state < 'active' and start_after > now())::int as delayed,
        count(*) filter (where state = 'active')::int as active
      from pgboss.job
      where name = ${runQueue} and state <= 'active'
    ), renderings as (
      select count(*)::int as renderings,
        coalesce(extract(epoch from now() - min(created_on)), 0)::float8 as rendering_seconds
      from pgboss.job
      where name = ${renderQueue} and state <= 'active'
    ), runs as (
      select count(*) filter (where state = 'queued')::int as queued, count(*) filter (where state = 'running')::int as running
      from export_runs
      where state in ('queued', 'running')
    ), late as (
      select due.slot, exists (
        select from snapshots
        where snapshots.environment_id = config.environment_id and snapshots.snapshot_date = due.snapshot_date
      ) as has_snapshot
      ${fromDueConfigs(now)}
        and not exists (
          select from export_runs as run
          where run.environment_id = config.environment_id and run.config_id = config.id
            and run.slot = due.slot and run.state in ('successful', 'failed')
          offset 0)
    ), slots as (
      select
        count(*) filter (where has_snapshot)::int as of_run,
        count(*) filter (where not has_snapshot)::int as of_snapshot,
        coalesce(extract(epoch from ${now}::timestamptz - min(slot) filter (where has_snapshot)), 0)::float8 as of_run_seconds,
        coalesce(extract(epoch from ${now}::timestamptz - min(slot) filter (where not has_snapshot)), 0)::float8 as of_snapshot_seconds
      from late
    )
    select * from jobs, renderings, runs, slots`.execute(db);
  const found = rows[0] ?? {};
  const numberOf = (name: string) => found[name] ?? 0;
  return {
    readyJobs: numberOf('ready'),
    oldestReadyJobSeconds: numberOf('ready_seconds'),
    delayedJobs: numberOf('delayed'),
    activeJobs: numberOf('active'),
    queuedRuns: numberOf('queued'),
    runningRuns: numberOf('running'),
    lateForSnapshot: {
      slots: numberOf('of_snapshot'),
      oldestSeconds: numberOf('of_snapshot_seconds'),
    },
    lateForRun: { slots: numberOf('of_run'), oldestSeconds: numberOf('of_run_seconds') },
    waitingRenderings: numberOf('renderings'),
    oldestWaitingRenderingSeconds: numberOf('rendering_seconds'),
  };
}
