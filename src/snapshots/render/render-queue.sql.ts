import { type RawBuilder, sql } from 'kysely';
import type { PoolClient } from 'pg';
import type { PgBoss } from 'pg-boss';
import type { Database } from '../../db/database.ts';
import { type RenderJob, renderQueue } from '../../db/job-queue.ts';

/** Maximum number of snapshots that one call enqueues. */
const maxAtOnce = 1_000;
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

/** Snapshots whose registry entry changed and that may need work. */
const changed = sql`(select distinct environment_id, snapshot_date from snapshot_changes) as changed`;

/**
 * Version of a changed snapshot; null after its deletion. The limit makes Postgres look it up by
 * the index. The planner has no useful statistics about `changed`.
 */
const currentVersion = sql`
  (select version from snapshots
    where environment_id = changed.environment_id and snapshot_date = changed.snapshot_date
    limit 1)`;
/** True if a version of a changed snapshot is rendered, else null. */
const isRendered = (version: RawBuilder<unknown>) => sql`
  (select true from rendered_snapshots
    where environment_id = changed.environment_id and version = ${version}
    limit 1)`;

/** Renderings of a changed snapshot that do not belong to its current version. */
const replacedRenderings = sql`
  (select ctid from rendered_snapshots as rendered
    where rendered.environment_id = changed.environment_id
      and rendered.snapshot_date = changed.snapshot_date and rendered.replaced_at is null
      and rendered.version is distinct from ${currentVersion}
    offset 0)`;

/**
 * Enqueues renderings of versions that are not rendered, newest dates first. A backend may have
 * filled the tables by SQL. Skips snapshots that are in the queue, and versions that failed within
 * the last hour.
 *
 * `not in` reads the jobs once, into a hash table. With `not exists` and statistics of an empty
 * queue, Postgres compared each snapshot with each job: 12 s with 4,000 jobs.
 * @returns the number of jobs
 */
export async function enqueueMissingRenderings(db: Database, jobs: PgBoss): Promise<number> {
  const { rows } = await sql<RenderJob>`
    select environment_id as "environmentId", snapshot_date as date, version
    from ${changed} cross join lateral (
      select ${currentVersion} as version, environment_id || ' ' || snapshot_date::text as key
      offset 0) as current
    where version is not null and ${isRendered(sql`current.version`)} is null
      and key not in (
        select singleton_key from pgboss.job
        where name = ${renderQueue} and state < 'completed' and singleton_key is not null)
      and (key, version::text) not in (
        select singleton_key, data ->> 'version' from pgboss.job
        where name = ${renderQueue} and state = 'failed'
          and singleton_key is not null and data ->> 'version' is not null)
    order by snapshot_date desc, environment_id
    limit ${maxAtOnce}`.execute(db);
  if (rows.length > 0) await insertJobs(jobs, rows);
  return rows.length;
}

/**
 * Records a change of each snapshot that needs work. A trigger records all changes since migration
 * 0016. Takes seconds with very many snapshots.
 */
export async function recordUnfinishedSnapshots(db: Database): Promise<void> {
  await sql`
    insert into snapshot_changes (environment_id, snapshot_date)
    select distinct coalesce(snapshot.environment_id, rendered.environment_id),
      coalesce(snapshot.snapshot_date, rendered.snapshot_date)
    from snapshots as snapshot
    full join (select * from rendered_snapshots where replaced_at is null) as rendered
      on rendered.environment_id = snapshot.environment_id and rendered.version = snapshot.version
    where snapshot.version is null or rendered.version is null`.execute(db);
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
    update rendered_snapshots set replaced_at = ${now}
    where replaced_at is null and ctid = any(array(
      select replaced.ctid
      from ${changed} cross join lateral ${replacedRenderings} as replaced))`.execute(db);
  // A version whose rendering is not complete keeps its change for the next tick.
  await sql`
    delete from snapshot_changes as changed
    where coalesce(${isRendered(currentVersion)}, ${currentVersion} is null)
      and not exists ${replacedRenderings}`.execute(db);
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
