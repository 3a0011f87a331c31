import { sql } from 'kysely';
import type { PgBoss } from 'pg-boss';
import type { Database, DatabaseOrTransaction } from '../db/database.ts';
import { errorColumns, type RunError } from '../export-configs/run-error.ts';
import type { WrittenObject } from '../webhooks/events.ts';
import { type Attempt, isOf } from './attempts-repository.ts';
import { enqueueRuns } from './enqueue-runs.sql.ts';
import { applyFailureEffects, applySuccessEffects, lockConfig } from './run-effects.sql.ts';
import { transition } from './transition.sql.ts';

/** Records how attempts end. */

/** Result of a successful run. */
export interface RunResult extends WrittenObject {
  /** Version of the snapshot in the object. */
  readonly snapshotVersion: string;
}

/**
 * Records the success of a run, ends the failure streak of the config and inserts its events.
 * @returns false without any change if the run was cancelled or taken over meanwhile
 */
export async function recordSuccess(
  db: Database,
  boss: PgBoss,
  attempt: Attempt,
  result: RunResult,
  now: Date,
): Promise<boolean> {
  return await db.transaction().execute(async trx => {
    await lockConfig(trx, attempt);
    const updated = await transition(trx, 'succeed')
      .set({
        finished_at: now,
        row_count: result.rowCount,
        bytes: result.bytes,
        sha256: result.sha256,
        object_key: result.objectKey,
        snapshot_version: result.snapshotVersion,
        ...errorColumns(null),
        job_id: null,
        upload_id: null,
      })
      .where(isOf(attempt))
      .executeTakeFirst();
    if (updated.numUpdatedRows === 0n) return false;
    await applySuccessEffects(trx, boss, attempt, result, now);
    return true;
  });
}

/**
 * Records the failure of a run, pushes it, and turns the config off if needed. The job stays while
 * there is an upload to abort.
 * @returns false without any change if the run has already ended or was taken over
 */
export async function recordFailure(
  db: Database,
  boss: PgBoss,
  attempt: Attempt,
  error: RunError,
  now: Date,
): Promise<boolean> {
  return await db.transaction().execute(async trx => {
    await lockConfig(trx, attempt);
    const updated = await transition(trx, 'fail')
      .set({
        finished_at: now,
        ...errorColumns(error),
        job_id: sql`case when run.upload_id is not null then run.job_id end`,
      })
      .where(isOf(attempt))
      .executeTakeFirst();
    if (updated.numUpdatedRows === 0n) return false;
    await applyFailureEffects(trx, boss, [attempt], now);
    return true;
  });
}

/**
 * Returns a run to the state `queued` until the next attempt of the job, with the error of this
 * attempt.
 */
export async function recordRetry(
  db: DatabaseOrTransaction,
  attempt: Attempt,
  error: RunError,
): Promise<boolean> {
  const updated = await transition(db, 'retry')
    .set(errorColumns(error))
    .where(isOf(attempt))
    .executeTakeFirst();
  return updated.numUpdatedRows === 1n;
}

/**
 * Returns a run to the queue because this process shuts down or the snapshot is missing. If the
 * snapshot is present, the run gets a new job at once.
 */
export async function requeueRun(
  db: Database,
  boss: PgBoss,
  attempt: Attempt,
  delaySeconds = 0,
): Promise<void> {
  await db.transaction().execute(async trx => {
    const updated = await transition(trx, 'requeue')
      .set({ job_id: null })
      .where(isOf(attempt))
      .executeTakeFirst();
    if (updated.numUpdatedRows === 1n) {
      await enqueueRuns(trx, boss, attempt, {}, delaySeconds);
    }
  });
}

/** Delay before a worker attempts a run again that had to give way to other runs. */
const postponedSeconds = 60;

/**
 * Returns the run to the queue with a delay, because its storage is slow or there is no place for a
 * conversion. Others are served first.
 */
export async function postponeRun(db: Database, boss: PgBoss, attempt: Attempt): Promise<void> {
  await requeueRun(db, boss, attempt, postponedSeconds);
}
