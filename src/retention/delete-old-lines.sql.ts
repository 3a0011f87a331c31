import { type RawBuilder, sql } from 'kysely';
import { type AuditAction, recordChange, systemActor } from '../audit/audit-log-repository.ts';
import type { Database } from '../db/database.ts';

/** Deletes old runs and audit lines in short batches. Returns the number of deleted lines. */

const linesPerBatch = 5_000;

/** Condition on a run: a run of the same config exists that meets the condition on `newer`. */
const hasNewer = (condition: RawBuilder<unknown>) => sql`exists (
  select from export_runs as newer
  where newer.environment_id = run.environment_id and newer.config_id = run.config_id
    and ${condition})`;

/**
 * Deletes runs that finished before `before`. Runs that still have to clean up are kept. For each
 * config these runs are kept too:
 * - the run of the newest slot, so that no slot is executed twice
 * - the last finished and the last successful run, which the status shows
 * - the runs of a backfill that is kept, which it counts
 */
export async function deleteOldRuns(
  db: Database,
  before: Date,
  signal: AbortSignal,
): Promise<number> {
  await deleteOldBackfills(db, before);
  const batch = sql`
    delete from export_runs
    where (environment_id, id) in (
      select run.environment_id, run.id
      from export_runs as run
      where run.finished_at < ${before} and run.job_id is null
        and not exists (
          select from backfills
          where backfills.environment_id = run.environment_id and backfills.id = run.backfill_id)
        and (run.slot is null or ${hasNewer(sql`newer.slot > run.slot`)})
        and ${hasNewer(sql`newer.finished_at > run.finished_at`)}
        and (run.state <> 'successful' or ${hasNewer(
          sql`newer.state = 'successful' and newer.finished_at > run.finished_at`,
        )})
      limit ${linesPerBatch})`;
  return await deleteInBatches(db, batch, 'export_runs.expired', before, signal);
}

/** Deletes backfills that ended before `before`. */
async function deleteOldBackfills(db: Database, before: Date): Promise<void> {
  await sql`
    delete from backfills as backfill
    where backfill.created_at < ${before}
      and coalesce(backfill.cancelled_at < ${before}, backfill.pending_dates = '{}')
      and not exists (
        select from export_runs as run
        where run.environment_id = backfill.environment_id and run.backfill_id = backfill.id
          and coalesce(run.finished_at >= ${before}, true))`.execute(db);
}

/** Deletes audit lines that were written before `before`. */
export async function deleteOldAuditLines(
  db: Database,
  before: Date,
  signal: AbortSignal,
): Promise<number> {
  const batch = sql`
    delete from audit_log
    where id in (
      select id from audit_log where at < ${before} order by at limit ${linesPerBatch})`;
  return await deleteInBatches(db, batch, 'audit_log.expired', before, signal);
}

/** Repeats a statement until it finds less than a batch. Writes an audit line for each batch. */
async function deleteInBatches(
  db: Database,
  batch: RawBuilder<unknown>,
  action: AuditAction,
  before: Date,
  signal: AbortSignal,
): Promise<number> {
  let total = 0;
  for (let count = linesPerBatch; count === linesPerBatch && !signal.aborted; total += count) {
    count = await db.transaction().execute(async trx => {
      const deleted = Number((await batch.execute(trx)).numAffectedRows ?? 0);
      const details = { count: deleted, before: before.toISOString() };
      const change = { environmentId: null, action, targetId: null, details };
      if (deleted > 0) await recordChange(trx, systemActor('retention'), change);
      return deleted;
    });
  }
  return total;
}
