import { sql, type Transaction } from 'kysely';
import { fromKysely, type PgBoss } from 'pg-boss';
import { type Actor, recordChange } from '../audit/audit-log-repository.ts';
import type { DatabaseOrTransaction } from '../db/database.ts';
import { type RunOrigin, runQueue } from '../db/job-queue.ts';
import type { Tables } from '../db/tables.ts';
import type { ConfigKey } from '../export-configs/repository.ts';
import { errorColumns, type RunError } from '../export-configs/run-error.ts';
import { AppError } from '../shared/errors.ts';
import { cancelBackfillsOf } from './backfills-repository.ts';
import { enqueueRuns } from './enqueue-runs.sql.ts';
import { getRun, type Run } from './repository.ts';
import { lockConfig } from './run-effects.sql.ts';
import { cancelledByCaller, cancelReasons } from './run-errors.ts';
import { isFinal } from './run-states.ts';
import { transition } from './transition.sql.ts';

/** Cancels and hurries runs for callers. */

interface RunKey {
  readonly environmentId: string;
  readonly configId: string;
  readonly runId: string;
}

/** `Retry-After` in seconds for a run that changes within seconds. */
const retryAfter = { 'retry-after': '5' };

/**
 * Cancels the unfinished run and the backfills of a config that is turned off or deleted. A worker
 * that executes the run notices within a second and cleans up. A run that completes its object ends
 * as successful.
 */
export async function cancelRuns(
  trx: DatabaseOrTransaction,
  config: ConfigKey,
  now: Date,
): Promise<void> {
  await cancelBackfillsOf(trx, config, now);
  await cancelled(trx, cancelReasons.cancelled, now)
    .where('run.environment_id', '=', config.environmentId)
    .where('run.config_id', '=', config.id)
    .execute();
}

/**
 * Cancels one run.
 * @throws AppError `not_found`; `conflict` if the run has ended or is completing its object
 */
export async function cancelRun(
  trx: Transaction<Tables>,
  actor: Actor,
  key: RunKey,
  now: Date,
): Promise<Run> {
  const { environmentId, configId, runId } = key;
  await lockConfig(trx, key);
  const { state } = await getRun(trx, environmentId, configId, runId);
  if (isFinal(state)) throw new AppError('conflict', `The run ${runId} has already ended.`);
  const updated = await cancelled(trx, cancelledByCaller, now)
    .where('run.environment_id', '=', environmentId)
    .where('run.id', '=', runId)
    .executeTakeFirst();
  if (updated.numUpdatedRows === 0n) {
    const detail = `The run ${runId} is completing its file and can no longer be cancelled.`;
    throw new AppError('conflict', detail, { headers: retryAfter });
  }
  await recordChange(trx, actor, {
    environmentId,
    action: 'export_run.cancelled',
    targetId: runId,
    details: { configId },
  });
  return await getRun(trx, environmentId, configId, runId);
}

/** Cancels the unfinished run of a running backfill, if it has one. */
export async function cancelRunOfBackfill(
  trx: Transaction<Tables>,
  { environmentId, backfillId }: { environmentId: string; backfillId: string },
  now: Date,
): Promise<void> {
  await cancelled(trx, cancelledByCaller, now)
    .where('run.environment_id', '=', environmentId)
    .where('run.backfill_id', '=', backfillId)
    .execute();
}

/** Returns an update that cancels all runs. The caller narrows it. */
function cancelled(db: DatabaseOrTransaction, error: RunError, now: Date) {
  return transition(db, 'fail')
    .set({
      finished_at: now,
      ...errorColumns(error),
      // A queued run without attempts needs no job. An earlier attempt may have left an upload,
      // even with an unknown id.
      job_id: sql`case when run.state = 'running' or run.attempts > 0 then run.job_id end`,
    })
    .where('run.is_completing', '=', false);
}

/**
 * Gives a run that waits for its next attempt a new job, which has no delay and all attempts.
 * @throws AppError `not_found`; `conflict` if the run does not wait for an attempt
 */
export async function retryRun(
  trx: Transaction<Tables>,
  boss: PgBoss,
  actor: Actor,
  key: RunKey,
  origin: RunOrigin,
): Promise<Run> {
  const { environmentId, configId, runId } = key;
  await lockConfig(trx, key);
  const waiting = await trx
    .selectFrom('export_runs as run')
    .select('run.job_id')
    .where('run.environment_id', '=', environmentId)
    .where('run.config_id', '=', configId)
    .where('run.id', '=', runId)
    .where('run.state', '=', 'queued')
    .where('run.job_id', 'is not', null)
    .where(
      // The job of an attempt that has just failed is still active.
      sql<boolean>`not exists (
        select from pgboss.job
        where job.name = ${runQueue} and job.id = run.job_id
          and job.state < 'active' and job.start_after <= now())`,
    )
    .forNoKeyUpdate()
    .executeTakeFirst();
  if (waiting === undefined || waiting.job_id === null) {
    throw refusedRetry(await getRun(trx, environmentId, configId, runId));
  }
  await transition(trx, 'requeue')
    .set({ job_id: null })
    .where('run.environment_id', '=', environmentId)
    .where('run.id', '=', runId)
    .execute();
  await boss.cancel(runQueue, waiting.job_id, { db: fromKysely(trx) });
  await enqueueRuns(trx, boss, { environmentId, runId }, origin);
  await recordChange(trx, actor, {
    environmentId,
    action: 'export_run.retried',
    targetId: runId,
    details: { configId },
  });
  return await getRun(trx, environmentId, configId, runId);
}

function refusedRetry({ id, state }: Run): AppError {
  if (isFinal(state)) {
    return new AppError('conflict', `The run ${id} has ended. Start a new run instead.`);
  }
  const detail =
    state === 'running'
      ? `The run ${id} is being attempted now.`
      : `The run ${id} waits for its snapshot or for a worker, not for another attempt.`;
  return new AppError('conflict', detail, { headers: retryAfter });
}
