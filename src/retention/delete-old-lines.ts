import { sql, type Transaction } from 'kysely';
import { recordChange, systemActor } from '../audit/audit-log.ts';
import type { Database } from '../db/database.ts';
import type { Tables } from '../db/tables.ts';

/** Deletes old runs and audit lines in short batches. */

const actor = systemActor('retention');
const configsPerBatch = 500;
const linesPerBatch = 5_000;

/**
 * Deletes runs that finished before `before`. Runs that still have to clean up are kept. For each
 * config these runs are kept too:
 * - the run of the newest slot, so that no slot is executed twice
 * - the last finished and the last successful run, which the status shows
 * - the runs of a backfill that is kept, which it counts
 * @returns the number of deleted runs
 */
export async function deleteOldRuns(
  db: Database,
  before: Date,
  signal: AbortSignal,
): Promise<number> {
  await deleteOldBackfills(db, before);
  let count = 0;
  for (let after = { environmentId: '', id: '' }; !signal.aborted; ) {
    const configs = await db
      .selectFrom('export_configs')
      .select(['environment_id as environmentId', 'id'])
      .where(({ eb, refTuple, tuple }) =>
        eb(refTuple('environment_id', 'id'), '>', tuple(after.environmentId, after.id)),
      )
      .orderBy('environment_id')
      .orderBy('id')
      .limit(configsPerBatch)
      .execute();
    count += await deleteRunsOf(db, configs, before);
    const last = configs.at(-1);
    if (last === undefined || configs.length < configsPerBatch) break;
    after = last;
  }
  return count;
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

async function deleteRunsOf(
  db: Database,
  configs: readonly { environmentId: string; id: string }[],
  before: Date,
): Promise<number> {
  return await db.transaction().execute(async trx => {
    const result = await sql`
      delete from export_runs as run
      using unnest(
        ${configs.map(config => config.environmentId)}::text[], ${configs.map(config => config.id)}::text[]
      ) as config (environment_id, id)
      where run.environment_id = config.environment_id and run.config_id = config.id
        and run.finished_at < ${before} and run.job_id is null
        and not exists (
          select from backfills
          where backfills.environment_id = run.environment_id and backfills.id = run.backfill_id)
        and (run.slot is null or exists (
          select from export_runs as newer
          where newer.environment_id = run.environment_id and newer.config_id = run.config_id
            and newer.slot > run.slot))
        and exists (
          select from export_runs as newer
          where newer.environment_id = run.environment_id and newer.config_id = run.config_id
            and newer.finished_at > run.finished_at)
        and (run.state <> 'successful' or exists (
          select from export_runs as newer
          where newer.environment_id = run.environment_id and newer.config_id = run.config_id
            and newer.state = 'successful' and newer.finished_at > run.finished_at))`.execute(trx);
    return await recordExpired(trx, 'export_runs.expired', result.numAffectedRows, before);
  });
}

/** Deletes audit lines that were written before `before`. @returns the number of deleted lines */
export async function deleteOldAuditLines(
  db: Database,
  before: Date,
  signal: AbortSignal,
): Promise<number> {
  let count = 0;
  while (!signal.aborted) {
    const deleted = await deleteAuditLines(db, before);
    count += deleted;
    if (deleted < linesPerBatch) break;
  }
  return count;
}

async function deleteAuditLines(db: Database, before: Date): Promise<number> {
  return await db.transaction().execute(async trx => {
    const result = await trx
      .deleteFrom('audit_log')
      .where('id', 'in', eb =>
        eb
          .selectFrom('audit_log')
          .select('id')
          .where('at', '<', before)
          .orderBy('at')
          .limit(linesPerBatch),
      )
      .executeTakeFirst();
    return await recordExpired(trx, 'audit_log.expired', result.numDeletedRows, before);
  });
}

/** Writes one audit line for a batch. @returns the number of deleted lines */
async function recordExpired(
  trx: Transaction<Tables>,
  action: 'export_runs.expired' | 'audit_log.expired',
  deleted: bigint | undefined,
  before: Date,
): Promise<number> {
  const count = Number(deleted ?? 0);
  if (count > 0) {
    const details = { count, before: before.toISOString() };
    await recordChange(trx, actor, { environmentId: null, action, targetId: null, details });
  }
  return count;
}
