import { sql } from 'kysely';
import type { DatabaseOrTransaction } from '../db/database.ts';
import type { RunJob } from '../db/job-queue.ts';
import type { Plan } from '../environments/plans.ts';
import { type ExportConfig, purgeConfigs, toConfig } from '../export-configs/repository.ts';
import { errorColumns, type RunError, toRunError } from '../export-configs/run-error.ts';
import type { RunTrigger } from '../export-configs/run-triggers.ts';
import { isFinal } from './run-states.ts';
import { transition } from './transition.sql.ts';

/**
 * Reads and begins attempts. Every update names the job and the attempt. An abandoned worker that
 * is still alive therefore cannot overwrite its successor.
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
  readonly trigger: RunTrigger;
  readonly snapshotDate: string;
  /** Recorded multipart upload that was started and not aborted; null if there is none. */
  readonly uploadId: string | null;
  readonly lastError: RunError | null;
  readonly config: ExportConfig;
  readonly plan: Plan;
}

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
      'run.error_hint',
    ])
    .where('run.environment_id', '=', job.environmentId)
    .where('run.id', '=', job.runId)
    .where('run.job_id', '=', jobId)
    .executeTakeFirst();
  if (row === undefined) return null;
  return {
    attempt: { ...job, jobId, number: row.attempts },
    isFinished: isFinal(row.state),
    isDeleted: row.deleted_at !== null,
    trigger: row.trigger as JobContext['trigger'],
    snapshotDate: row.snapshot_date,
    uploadId: row.upload_id,
    lastError: toRunError(row),
    config: toConfig(row),
    plan: row.plan as Plan,
  };
}

/** Begins the next attempt. @returns null if the run was cancelled or taken over meanwhile */
export async function beginAttempt(
  db: DatabaseOrTransaction,
  before: Attempt,
  now: Date,
): Promise<Attempt | null> {
  const number = before.number + 1;
  const result = await transition(db, 'begin')
    .set({
      attempts: number,
      started_at: sql`coalesce(started_at, ${now})`,
      ...errorColumns(null),
      upload_id: null,
    })
    .where(isOf(before))
    .executeTakeFirst();
  return result.numUpdatedRows === 1n ? { ...before, number } : null;
}

/**
 * Marks the attempt before it completes its object. From then on no caller can cancel the run.
 * @returns false if the attempt is not the current one of the run
 */
export async function beginCompletion(
  db: DatabaseOrTransaction,
  attempt: Attempt,
): Promise<boolean> {
  const result = await db
    .updateTable('export_runs as run')
    .set({ is_completing: true })
    .where(isOf(attempt))
    .where('run.state', '=', 'running')
    .executeTakeFirst();
  return result.numUpdatedRows === 1n;
}

/** Returns whether the attempt is the current one, and the plan. One look-up by primary key. */
export async function getAttemptStatus(
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

/** Returns true if the main database has the snapshot of the run. The replica may be behind. */
export async function isSnapshotIngested(
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

/**
 * Removes the job of a run that has ended and has nothing left in the bucket. Purges a deleted
 * config.
 */
export async function releaseJob(db: DatabaseOrTransaction, attempt: Attempt): Promise<void> {
  await db
    .updateTable('export_runs as run')
    .set({ job_id: null })
    .where(isOf(attempt))
    .where('run.state', 'in', ['successful', 'failed'])
    .where('run.upload_id', 'is', null)
    .execute();
  await purgeConfigs(db, { environmentId: attempt.environmentId, id: attempt.configId });
}

/** Returns the condition that the row `run` still belongs to the attempt. */
export function isOf({ environmentId, runId, jobId, number }: Attempt) {
  return sql<boolean>`run.environment_id = ${environmentId} and run.id = ${runId}
    and run.job_id = ${jobId} and run.attempts = ${number}`;
}
