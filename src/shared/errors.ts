/**
 * Status of each error code. The codes are a closed union of all errors that callers may see.
 * Handlers throw an AppError, which the error handler converts to an RFC 9457 problem. Any other
 * error is a bug or an outage.
 */
export const errorStatus = {
  validation_failed: 400,
  digest_mismatch: 400,
  unauthenticated: 401,
  insufficient_scope: 403,
  plan_upgrade_required: 403,
  not_found: 404,
  method_not_allowed: 405,
  request_timeout: 408,
  conflict: 409,
  precondition_failed: 412,
  payload_too_large: 413,
  unsupported_media_type: 415,
  range_not_satisfiable: 416,
  snapshot_invalid: 422,
  storage_validation_failed: 422,
  rate_limited: 429,
  too_many_downloads: 429,
  internal_error: 500,
  unavailable: 503,
} as const;

export type ErrorCode = keyof typeof errorStatus;

/** Invalid field. `path` is a JSON pointer into the body, or `/query/…`, `/path/…`, `/headers/…`. */
export interface FieldError {
  readonly path: string;
  readonly message: string;
}

interface AppErrorOptions {
  /** Additional members of the problem body, such as `errors` or `storageError`. Never a secret. */
  readonly members?: Readonly<Record<string, unknown>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
}

export class AppError extends Error {
  override readonly name = 'AppError';
  readonly code: ErrorCode;
  readonly members: Readonly<Record<string, unknown>>;
  readonly headers: Readonly<Record<string, string>>;

  /** @param detail text for the caller */
  constructor(code: ErrorCode, detail: string, options: AppErrorOptions = {}) {
    super(detail, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.members = options.members ?? {};
    this.headers = options.headers ?? {};
  }

  get status(): number {
    return errorStatus[this.code];
  }
}

export function validationFailed(errors: readonly FieldError[]): AppError {
  const detail = errors.map(error => `${error.path || '/'} ${error.message}`).join('; ');
  return new AppError('validation_failed', detail, { members: { errors } });
}

export function notFound(what: string): AppError {
  return new AppError('not_found', `There is no such ${what}.`);
}

/** `Retry-After` in seconds while a snapshot is being ingested or removed. */
const snapshotRetrySeconds = '10';

/** Returns the conflict with a request that ingests or removes the same snapshot. */
export function snapshotInUse(detail: string): AppError {
  return new AppError('conflict', detail, { headers: { 'retry-after': snapshotRetrySeconds } });
}
