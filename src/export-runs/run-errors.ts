import { isDatabaseUnavailable } from '../db/is-unavailable.ts';
import { isTransient, StorageError, storageErrorCodes } from '../destinations/s3/errors.ts';
import type { RunError } from '../export-configs/status.ts';

/** The registry that exports read has no such snapshot. */
export class SnapshotAbsentError extends Error {
  override readonly name = 'SnapshotAbsentError';
}

/** Why runs end, and which ends are only of an attempt. Pure. */

/** Somebody stopped the run. It shows as failed with one of these. */
export const stopReasons = {
  cancelled: {
    code: 'cancelled',
    message: 'The config was turned off before the run had finished.',
  },
  plan_upgrade_required: {
    code: 'plan_upgrade_required',
    message: 'The plan of the environment no longer includes automatic exports.',
  },
} as const satisfies Record<string, RunError>;

/** Every code that a run may end with. */
export const runErrorCodes: readonly string[] = [
  ...storageErrorCodes,
  ...Object.keys(stopReasons),
  'snapshot_missing',
  'internal_error',
];

/** Says nothing of the inside. */
export const internalError: RunError = {
  code: 'internal_error',
  message: 'Something went wrong on our side. The bucket and the credentials were not at fault.',
};

export function snapshotMissing(snapshotDate: string): RunError {
  return { code: 'snapshot_missing', message: `There is no snapshot of ${snapshotDate} any more.` };
}

const notThereYet: RunError = {
  code: 'snapshot_missing',
  message: 'The snapshot has been loaded, but has not reached the replica that exports read.',
};

/** A fault of ours may come from a moment's confusion; one that comes again and again is a bug. */
const attemptsAtInternalErrors = 3;

/**
 * What a customer is told of anything that an attempt met, and whether another attempt makes sense.
 * @param attempt its number, from 1
 */
export function describeFailure(
  error: unknown,
  attempt: number,
): { error: RunError; retry: boolean } {
  if (error instanceof StorageError) {
    const { code, message } = error.fault;
    return { error: { code, message }, retry: isTransient(code) };
  }
  // The registry has it, so the replica that exports read will.
  if (error instanceof SnapshotAbsentError) return { error: notThereYet, retry: true };
  return {
    error: internalError,
    retry: isDatabaseUnavailable(error) || attempt < attemptsAtInternalErrors,
  };
}
