import { isDatabaseUnavailable } from '../db/errors.ts';
import { isTransient, StorageError } from '../destinations/s3/errors.ts';
import type { RunError } from '../export-configs/run-error.ts';

/** Error for a snapshot that is not in the registry that exports read. */
export class SnapshotAbsentError extends Error {
  override readonly name = 'SnapshotAbsentError';
}

/** Errors of runs that were cancelled. They end as failed with one of these. */
export const cancelReasons = {
  cancelled: {
    code: 'cancelled',
    message: 'The config was turned off before the run had finished.',
  },
  plan_upgrade_required: {
    code: 'plan_upgrade_required',
    message: 'The plan of the environment no longer includes automatic exports.',
  },
} as const satisfies Record<string, RunError>;

/** Error of a run that a caller cancelled. */
export const cancelledByCaller: RunError = {
  code: 'cancelled',
  message: 'The run was cancelled.',
};

/** Error that reveals no internals. */
export const internalError: RunError = {
  code: 'internal_error',
  message: 'An internal error occurred. The bucket and the credentials are not the cause.',
};

/** Hint for a snapshot that was not there in time, or is not there any more. */
export const snapshotMissingHint =
  'Ingest the snapshot of that date. Then start a run or a backfill of that date.';

export function snapshotMissing(snapshotDate: string): RunError {
  return {
    code: 'snapshot_missing',
    message: `There is no snapshot of ${snapshotDate} any more.`,
    hint: snapshotMissingHint,
  };
}

const notThereYet: RunError = {
  code: 'snapshot_missing',
  message: 'The snapshot has been ingested, but has not reached the replica that exports read.',
};

/**
 * Attempts after which an internal error is final. A single error may be transient, but a repeated
 * error is a bug.
 */
const attemptsAtInternalErrors = 3;

/**
 * Describes an error of an attempt for the customer, and decides whether another attempt makes
 * sense.
 * @param attempt number of the attempt, from 1
 */
export function describeFailure(
  error: unknown,
  attempt: number,
): { error: RunError; retry: boolean } {
  if (error instanceof StorageError) {
    const { code, message, hint } = error.details;
    return { error: { code, message, hint }, retry: isTransient(code) };
  }
  // The main database has the snapshot, so the replica will have it soon.
  if (error instanceof SnapshotAbsentError) return { error: notThereYet, retry: true };
  return {
    error: internalError,
    retry: isDatabaseUnavailable(error) || attempt < attemptsAtInternalErrors,
  };
}
