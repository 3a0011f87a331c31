import { storageErrorCodes } from '../destinations/s3/errors.ts';

/** Error of a failed run or attempt. */
export interface RunError {
  readonly code: string;
  readonly message: string;
}

/** All codes that a run may end with. */
export const runErrorCodes: readonly string[] = [
  ...storageErrorCodes,
  'cancelled',
  'plan_upgrade_required',
  'snapshot_missing',
  'internal_error',
];
