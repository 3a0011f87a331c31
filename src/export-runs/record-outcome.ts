import type { RunError } from '../export-configs/run-error.ts';
import { NoParquetPlaceError } from '../exports/parquet/places.ts';
import type { AttemptOutcome } from '../observability/metrics.ts';
import { type Attempt, isSnapshotIngested, type JobContext } from './attempts-repository.ts';
import * as outcomes from './outcomes-repository.ts';
import type { ClaimedJob, RunDependencies } from './run-dependencies.ts';
import { describeFailure, SnapshotAbsentError, snapshotMissing } from './run-errors.ts';
import { SlowLaneFullError } from './slow-lane.ts';
import { AttemptCancelledError } from './watch-attempt.ts';

type OutcomeDependencies = Pick<RunDependencies, 'db' | 'jobs' | 'metrics' | 'now'>;

/**
 * Decides what follows an unsuccessful attempt, and records it.
 * @param stopping aborts when this process must end
 * @param thrown error of the attempt
 */
export async function recordOutcome(
  dependencies: OutcomeDependencies,
  { attempt, trigger, snapshotDate }: JobContext,
  job: ClaimedJob,
  stopping: AbortSignal,
  thrown: unknown,
): Promise<{ outcome: AttemptOutcome; error: RunError | null }> {
  const { db, jobs } = dependencies;
  if (thrown instanceof AttemptCancelledError) {
    if (thrown.error === null) return { outcome: 'cancelled', error: null };
    await recordFailure(dependencies, attempt, thrown.error);
    return { outcome: 'failed', error: thrown.error };
  }
  if (stopping.aborted) {
    await outcomes.requeueRun(db, jobs, attempt);
    return { outcome: 'requeued', error: null };
  }
  if (job.signal.aborted) return { outcome: 'cancelled', error: null };
  if (thrown instanceof SlowLaneFullError || thrown instanceof NoParquetPlaceError) {
    await outcomes.postponeRun(db, jobs, attempt);
    return { outcome: 'requeued', error: null };
  }
  if (thrown instanceof SnapshotAbsentError && !(await isSnapshotIngested(db, attempt))) {
    if (trigger === 'schedule') {
      await outcomes.requeueRun(db, jobs, attempt);
      return { outcome: 'waiting', error: null };
    }
    const error = snapshotMissing(snapshotDate);
    await recordFailure(dependencies, attempt, error);
    return { outcome: 'failed', error };
  }
  const { error, retry } = describeFailure(thrown, attempt.number);
  if (retry && !job.isLast) {
    const recorded = await outcomes.recordRetry(db, attempt, error);
    return { outcome: recorded ? 'retry' : 'cancelled', error };
  }
  await recordFailure(dependencies, attempt, error);
  return { outcome: 'failed', error };
}

/** Records the failure of a run, and counts it unless it had already ended. */
export async function recordFailure(
  { db, jobs, metrics, now }: OutcomeDependencies,
  attempt: Attempt,
  error: RunError,
): Promise<void> {
  if (await outcomes.recordFailure(db, jobs, attempt, error, now()))
    metrics.runsEnded('failed', error.code);
}
