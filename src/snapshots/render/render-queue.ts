import { sql } from 'kysely';
import type { PoolClient } from 'pg';
import type { PgBoss } from 'pg-boss';
import type { Database } from '../../db/database.ts';
import { type RenderJob, renderQueue } from '../../db/job-queue.ts';

/** Maximum number of snapshots that one call enqueues. */
const mostAtOnce = 1_000;
/** Number of rendered versions whose chunks one transaction deletes. */
const deletionBatch = 20;

/** Enqueues the rendering of a version in the transaction that registers it. */
export async function enqueueRendering(
  client: PoolClient,
  jobs: PgBoss,
  job: RenderJob,
): Promise<void> {
  const db = { executeSql: (text: string, values?: unknown[]) => client.query(text, values) };
  await insertJobs(jobs, [job], db);
}

/**
 * Enqueues renderings of versions that are not rendered, newest dates first. A backend may have
 * filled the tables by SQL. Skips snapshots that are in the queue, and versions that failed within
 * the last hour.
 * @returns the number of jobs
 */
export async function enqueueMissingRenderings(db: Database, jobs: PgBoss): Promise<number> {
  const { rows } = await sql<RenderJob>`
    select snapshot.environment_id as "environmentId", snapshot.snapshot_date as date,
      snapshot.version
    from snapshots as snapshot
    where not exists (
        select from rendered_snapshots as rendered
        where rendered.environment_id = snapshot.environment_id
          and rendered.version = snapshot.version)
      and not exists (
        select from pgboss.job
        where job.name = ${renderQueue}
          and job.singleton_key = snapshot.environment_id || ' ' || snapshot.snapshot_date::text
          and (job.state < 'completed'
            or (job.state = 'failed' and job.data ->> 'version' = snapshot.version::text)))
    order by snapshot.snapshot_date desc, snapshot.environment_id
    limit ${mostAtOnce}`.execute(db);
  if (rows.length > 0) await insertJobs(jobs, rows);
  return rows.length;
}

async function insertJobs(
  jobs: PgBoss,
  wanted: readonly RenderJob[],
  db?: Parameters<PgBoss['insert']>[2] extends { db?: infer D } | undefined ? D : never,
): Promise<void> {
  const rows = wanted.map(data => ({
    data,
    singletonKey: `${data.environmentId} ${data.date}`,
    group: { id: data.environmentId },
  }));
  await jobs.insert(renderQueue, rows, db === undefined ? {} : { db });
}

/**
 * Marks rendered versions that were replaced or deleted, and deletes those that were marked before
 * `before`.
 * @returns the number of deleted versions
 */
export async function deleteReplacedRenderings(
  db: Database,
  {
    now,
    before,
    signal,
  }: { readonly now: Date; readonly before: Date; readonly signal: AbortSignal },
): Promise<number> {
  await sql`
    update rendered_snapshots as rendered set replaced_at = ${now}
    where replaced_at is null and not exists (
      select from snapshots as snapshot
      where snapshot.environment_id = rendered.environment_id
        and snapshot.snapshot_date = rendered.snapshot_date
        and snapshot.version = rendered.version)`.execute(db);
  let deleted = 0;
  while (!signal.aborted) {
    const result = await sql`
      delete from rendered_snapshots
      where (environment_id, version) in (
        select environment_id, version from rendered_snapshots
        where replaced_at < ${before}
        order by replaced_at
        limit ${deletionBatch}
        for update skip locked)`.execute(db);
    const count = Number(result.numAffectedRows ?? 0);
    deleted += count;
    if (count < deletionBatch) break;
  }
  return deleted;
}
