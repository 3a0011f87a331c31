import { sql, type Transaction } from 'kysely';
import { fromKysely, type PgBoss } from 'pg-boss';
import type { Database } from '../db/database.ts';
import { type RunJob, type RunOrigin, runQueue } from '../db/job-queue.ts';
import type { Tables } from '../db/tables.ts';

/** Selection of waiting runs: those of one snapshot or of one config, or one run. */
export type RunSelection =
  | { readonly environmentId: string; readonly date: string; readonly runId?: never }
  | { readonly environmentId: string; readonly configId: string; readonly runId?: never }
  | { readonly environmentId: string; readonly runId: string };

/**
 * Enqueues jobs of waiting runs whose snapshot is present. The run row and its job change in one
 * transaction. Runs that another transaction is enqueueing are skipped.
 *
 * Rows are updated by `ctid`. A join by key is planned with the statistics of the table. With
 * statistics of an empty table, 10,000 runs took three minutes.
 *
 * @param delaySeconds delay before a worker takes the jobs
 * @returns the number of enqueued runs
 */
export async function enqueueRuns(
  trx: Transaction<Tables>,
  boss: PgBoss,
  only?: RunSelection,
  origin: RunOrigin = {},
  delaySeconds = 0,
): Promise<number> {
  const { rows } = await sql<RunJob & { jobId: string; trigger: string }>`
    update export_runs as run
    set job_id = gen_random_uuid()
    where run.ctid = any(array(
      select waiting.ctid
      from export_runs as waiting
      where waiting.state = 'queued' and waiting.job_id is null and ${isSelected(only)}
        and exists (
          select from snapshots
          where snapshots.environment_id = waiting.environment_id
            and snapshots.snapshot_date = waiting.snapshot_date)
      for update of waiting skip locked))
    returning run.environment_id as "environmentId", run.config_id as "configId",
      run.id as "runId", run.job_id as "jobId", run.trigger`.execute(trx);
  if (rows.length === 0) return 0;
  const jobs = rows.map(({ jobId, trigger, ...data }) => ({
    id: jobId,
    data: { ...data, ...origin },
    // Limits the concurrency per environment, so that one customer with many configs does not block
    // others.
    group: { id: data.environmentId },
    // Jobs of other runs go first, those of other environments included.
    ...(trigger === 'backfill' && { priority: -1 }),
    ...(delaySeconds > 0 && { startAfter: delaySeconds }),
  }));
  await boss.insert(runQueue, jobs, { db: fromKysely(trx) });
  return rows.length;
}

/** Enqueues the runs that wait for a snapshot that was just ingested. */
export async function wakeRuns(
  db: Database,
  boss: PgBoss,
  environmentId: string,
  date: string,
): Promise<void> {
  await db.transaction().execute(async trx => {
    await enqueueRuns(trx, boss, { environmentId, date });
  });
}

function isSelected(only: RunSelection | undefined) {
  if (only === undefined) return sql`true`;
  if (only.runId !== undefined)
    return sql`waiting.environment_id = ${only.environmentId} and waiting.id = ${only.runId}`;
  return 'configId' in only
    ? sql`waiting.environment_id = ${only.environmentId} and waiting.config_id = ${only.configId}`
    : sql`waiting.environment_id = ${only.environmentId}
        and waiting.snapshot_date = ${only.date}::date`;
}
