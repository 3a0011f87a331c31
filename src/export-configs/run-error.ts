import { storageErrorCodes } from '../destinations/s3/errors.ts';

/** Error of a failed run or attempt. */
export interface RunError {
  readonly code: string;
  readonly message: string;
  /** How to correct the error; absent if unknown. */
  readonly hint?: string;
}

/** Columns of a run or of its alias that hold its error. */
interface ErrorColumns {
  readonly error_code: string | null;
  readonly error_message: string | null;
  readonly error_hint: string | null;
}

/** Converts the columns of an error. */
export function toRunError(row: ErrorColumns): RunError | null {
  const { error_code: code, error_message: message, error_hint: hint } = row;
  if (code === null || message === null) return null;
  return { code, message, ...(hint !== null && { hint }) };
}

/** Returns the columns for an error, or for none. */
export function errorColumns(error: RunError | null): ErrorColumns {
  return {
    error_code: error?.code ?? null,
    error_message: error?.message ?? null,
    error_hint: error?.hint ?? null,
  };
}

/** All codes that a run may end with. */
export const runErrorCodes: readonly string[] = [
  ...storageErrorCodes,
  'cancelled',
  'plan_upgrade_required',
  'snapshot_missing',
  'internal_error',
];
