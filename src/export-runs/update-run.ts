import { type NotNull, sql } from 'kysely';
import type { PgBoss } from 'pg-boss';
import type { Database, DatabaseOrTransaction } from '../db/database.ts';
import type { RunJob } from '../db/job-queue.ts';
import type { Plan } from '../environments/plans.ts';
import {
  type ConfigKey,
  type ExportConfig,
  purgeConfigs,
  toConfig,
} from '../export-configs/repository.ts';
import type { RunError } from '../export-configs/status.ts';
import type { WrittenObject } from '../webhooks/events.ts';
import { enqueueRuns } from './enqueue-runs.ts';
import { lockConfig, noteFailures, noteSuccess } from './failure-streaks.ts';
import { stopReasons } from './run-errors.ts';

/**
 * Updates run rows for workers. Every statement names the job and the attempt, so that an abandoned
 * worker that is still alive cannot overwrite its successor.
 */

/** Claim of a worker on a run. */
export interface Attempt {
  readonly environmentId: string;
  readonly configId: string;
  readonly runId: string;
  readonly jobId: string;
  /** Number of the attempt, from 1; 0 before the first. */
  readonly number: number;
}

/** Run, config and plan at the start of the job. */
export interface JobContext {
  readonly attempt: Attempt;
  readonly isFinished: boolean;
  /** True if the config was deleted. */
  readonly isDeleted: boolean;
  readonly trigger: 'schedule' | 'manual';
  readonly snapshotDate: string;
  /** Recorded multipart upload that was started and not aborted; null if there is none. */
  readonly uploadId: string | null;
  readonly lastError: RunError | null;
  readonly config: ExportConfig;
  readonly plan: Plan;
}

/** Result of a successful run. */
export type RunResult = WrittenObject;

/** Reads the context of a job; null if the run was deleted or belongs to another job. */
export async function readJobContext(
  db: DatabaseOrTransaction,
  job: RunJob,
  jobId: string,
): Promise<JobContext | null> {
  const row = await db
    .selectFrom('export_runs as run')
    .innerJoin('export_configs as config', join =>
      join
        .onRef('config.environment_id', '=', 'run.environment_id')
        .onRef('config.id', '=', 'run.config_id'),
    )
    .innerJoin('environments as environment', 'environment.id', 'run.environment_id')
    .selectAll('config')
    .select([
      'environment.plan',
      'run.attempts',
      'run.state',
      'run.trigger',
      'run.snapshot_date',
      'run.upload_id',
      'run.error_code',
      'run.error_message',
    ])
    .where('run.environment_id', '=', job.environmentId)
    .where('run.id', '=', job.runId)
    .where('run.job_id', '=', jobId)
    .executeTakeFirst();
  if (row === undefined) return null;
  return {
    attempt: { ...job, jobId, number: row.attempts },
    isFinished: row.state === 'successful' || row.state === 'failed',
    isDeleted: row.deleted_at !== null,
    trigger: row.trigger as JobContext['trigger'],
    snapshotDate: row.snapshot_date,
    uploadId: row.upload_id,
    lastError:
      row.error_code === null || row.error_message === null
        ? null
        : { code: row.error_code, message: row.error_message },
    config: toConfig(row),
    plan: row.plan as Plan,
  };
}

/** Starts the next attempt. @returns null if the run was cancelled or taken over meanwhile */
export async function beginAttempt(
  db: DatabaseOrTransaction,
  before: Attempt,
  now: Date,
): Promise<Attempt | null> {
  const result = await ofAttempt(db, before)
    .set({
      state: 'running',
      attempts: before.number + 1,
      started_at: sql`coalesce(started_at, ${now})`,
      error_code: null,
      error_message: null,
      upload_id: null,
    })
    .where('state', 'in', ['queued', 'running'])
    .executeTakeFirst();
  return result.numUpdatedRows === 1n ? { ...before, number: before.number + 1 } : null;
}

/** Records a multipart upload. @returns false if the attempt is not the current one of the run */
export async function rememberUpload(
  db: DatabaseOrTransaction,
  attempt: Attempt,
  uploadId: string,
): Promise<boolean> {
  const result = await ofAttempt(db, attempt)
    .set({ upload_id: uploadId })
    .where('state', '=', 'running')
    .executeTakeFirst();
  return result.numUpdatedRows === 1n;
}

/** Returns the ids of the multipart uploads of running runs of the environment. */
export async function readUploadsUnderWay(
  db: DatabaseOrTransaction,
  environmentId: string,
): Promise<string[]> {
  const rows = await db
    .selectFrom('export_runs')
    .select('upload_id')
    .where('environment_id', '=', environmentId)
    .where('state', '=', 'running')
    .where('upload_id', 'is not', null)
    .$narrowType<{ upload_id: NotNull }>()
    .execute();
  return rows.map(row => row.upload_id);
}

/** Removes the recorded upload after it was aborted. */
export async function forgetUpload(db: DatabaseOrTransaction, attempt: Attempt): Promise<void> {
  await ofAttempt(db, attempt).set({ upload_id: null }).execute();
}

/** Returns true if the main database has the snapshot of the run. The replica may be behind. */
export async function isSnapshotLoaded(
  db: DatabaseOrTransaction,
  { environmentId, runId }: Attempt,
): Promise<boolean> {
  const row = await db
    .selectFrom('export_runs as run')
    .innerJoin('snapshots as snapshot', join =>
      join
        .onRef('snapshot.environment_id', '=', 'run.environment_id')
        .onRef('snapshot.snapshot_date', '=', 'run.snapshot_date'),
    )
    .select('snapshot.version')
    .where('run.environment_id', '=', environmentId)
    .where('run.id', '=', runId)
    .executeTakeFirst();
  return row !== undefined;
}

/** Returns whether the attempt is the current one, and the plan. One look-up by primary key. */
export async function lookAtAttempt(
  db: DatabaseOrTransaction,
  attempt: Attempt,
): Promise<{ isCurrent: boolean; plan: Plan | null }> {
  const row = await db
    .selectFrom('export_runs as run')
    .innerJoin('environments as environment', 'environment.id', 'run.environment_id')
    .select(['run.state', 'run.attempts', 'run.job_id', 'environment.plan'])
    .where('run.environment_id', '=', attempt.environmentId)
    .where('run.id', '=', attempt.runId)
    .executeTakeFirst();
  if (row === undefined) return { isCurrent: false, plan: null };
  return {
    isCurrent:
      row.state === 'running' && row.attempts === attempt.number && row.job_id === attempt.jobId,
    plan: row.plan as Plan,
  };
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
    const updated = await ofAttempt(trx, attempt)
      .set({
        state: 'successful',
        finished_at: now,
        row_count: result.rowCount,
        bytes: result.bytes,
        sha256: result.sha256,
        object_key: result.objectKey,
        job_id: null,
        upload_id: null,
      })
      .where('state', '=', 'running')
      .executeTakeFirst();
    if (updated.numUpdatedRows === 0n) return false;
    await noteSuccess(trx, boss, attempt, result, now);
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
    const updated = await ofAttempt(trx, attempt)
      .set({
        state: 'failed',
        finished_at: now,
        error_code: error.code,
        error_message: error.message,
        job_id: sql`case when upload_id is not null then job_id end`,
      })
      .where('state', 'in', ['queued', 'running'])
      .executeTakeFirst();
    if (updated.numUpdatedRows === 0n) return false;
    await noteFailures(trx, boss, [attempt], now);
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
  const updated = await ofAttempt(db, attempt)
    .set({ state: 'queued', error_code: error.code, error_message: error.message })
    .where('state', '=', 'running')
    .executeTakeFirst();
  return updated.numUpdatedRows === 1n;
}

/**
 * Returns a run to the queue because this process shuts down or the snapshot is missing. If the
 * snapshot is present, the run gets a new job at once.
 */
export async function handBack(
  db: Database,
  boss: PgBoss,
  attempt: Attempt,
  delaySeconds = 0,
): Promise<void> {
  await db.transaction().execute(async trx => {
    const updated = await ofAttempt(trx, attempt)
      .set({ state: 'queued', job_id: null })
      .where('state', 'in', ['queued', 'running'])
      .executeTakeFirst();
    if (updated.numUpdatedRows === 1n) {
      await enqueueRuns(trx, boss, attempt, {}, delaySeconds);
    }
  });
}

/** Delay before a worker attempts a run whose storage was recently slow. */
const postponedSeconds = 60;

/**
 * Returns the run to the queue with a delay, because its storage is slow and others are served
 * first.
 */
export async function postpone(db: Database, boss: PgBoss, attempt: Attempt): Promise<void> {
  await handBack(db, boss, attempt, postponedSeconds);
}

/**
 * Removes the job of a run that has ended and has nothing left in the bucket. Purges a deleted
 * config.
 */
export async function letGo(db: DatabaseOrTransaction, attempt: Attempt): Promise<void> {
  await ofAttempt(db, attempt)
    .set({ job_id: null })
    .where('state', 'in', ['successful', 'failed'])
    .where('upload_id', 'is', null)
    .execute();
  await purgeConfigs(db, { environmentId: attempt.environmentId, id: attempt.configId });
}

/**
 * Cancels the runs of a config that is turned off or deleted. A worker that executes one notices
 * within a second and cleans up.
 */
export async function cancelRuns(
  db: DatabaseOrTransaction,
  config: ConfigKey,
  now: Date,
): Promise<void> {
  await db
    .updateTable('export_runs')
    .set({
      state: 'failed',
      finished_at: now,
      error_code: stopReasons.cancelled.code,
      error_message: stopReasons.cancelled.message,
      // A queued run without attempts needs no job. An earlier attempt may have left an upload,
      // even with an unknown id.
      job_id: sql`case when state = 'running' or attempts > 0 then job_id end`,
    })
    .where('environment_id', '=', config.environmentId)
    .where('config_id', '=', config.id)
    .where('state', 'in', ['queued', 'running'])
    .execute();
}

function ofAttempt(db: DatabaseOrTransaction, attempt: Attempt) {
  return db
    .updateTable('export_runs')
    .where('environment_id', '=', attempt.environmentId)
    .where('id', '=', attempt.runId)
    .where('job_id', '=', attempt.jobId)
    .where('attempts', '=', attempt.number);
}
