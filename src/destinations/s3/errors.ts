/**
 * Classifies storage errors.
 *
 * Errors are identified by HTTP status and the provider's code, or by Node's code if there was no
 * answer. Messages of providers are ignored: each words them differently, and RADOS Gateway leaves
 * them empty. Only the code and the region of an answer are shown, and only if they have the
 * expected form.
 */
import { type Cause, type CauseKind, causeOf } from './error-codes.ts';
import { type StorageContext, type StorageStep, type Wording, wordingOf } from './hints.ts';

export const storageErrorCodes = [
  'access_key_not_recognised',
  'secret_key_mismatch',
  'role_denied',
  'external_id_not_enforced',
  'bucket_not_found',
  'wrong_region',
  'list_denied',
  'write_denied',
  'encryption_denied',
  'endpoint_not_allowed',
  'endpoint_unreachable',
  'timeout',
  'tls_error',
  'not_s3',
  'clock_skew',
  'storage_unavailable',
  'unknown',
] as const;
export type StorageErrorCode = (typeof storageErrorCodes)[number];

/** Storage error that callers see as `storageError`. */
export interface StorageErrorDetails extends Wording {
  readonly code: StorageErrorCode;
}

/** Storage error as an exception. `cause` is the error of the SDK, only for the operator's log. */
export class StorageError extends Error {
  override readonly name = 'StorageError';
  readonly details: StorageErrorDetails;

  constructor(details: StorageErrorDetails, cause: unknown) {
    super(details.message, { cause });
    this.details = details;
  }
}

/** Errors that last until the configuration or the bucket is changed. */
export const configurationErrors: readonly StorageErrorCode[] = [
  'access_key_not_recognised',
  'secret_key_mismatch',
  'role_denied',
  'external_id_not_enforced',
  'bucket_not_found',
  'wrong_region',
  'list_denied',
  'write_denied',
  'encryption_denied',
  'not_s3',
  'endpoint_not_allowed',
];

/**
 * Returns true if a run is retried after this error. Certificate errors and unknown codes count as
 * transient. Both may pass, and a run that fails misses its slot.
 */
export function isTransient(code: StorageErrorCode): boolean {
  return !configurationErrors.includes(code);
}

/**
 * Describes an error of the S3 client.
 * @param error any thrown value
 */
export function describeStorageError(error: unknown, context: StorageContext): StorageErrorDetails {
  return describe(causeOf(error), context);
}

/** Describes an error whose cause the caller knows better than its code shows. */
export function describeStorageErrorAs(
  kind: CauseKind,
  error: unknown,
  context: StorageContext,
): StorageErrorDetails {
  return describe({ ...causeOf(error), kind }, context);
}

/**
 * Returns true if a list was answered like a read of an object, because the endpoint's host names a
 * bucket.
 */
export function isBucketInEndpoint(error: unknown): boolean {
  return causeOf(error).kind === 'no_such_key';
}

function describe(cause: Cause, context: StorageContext): StorageErrorDetails {
  const isMisplaced =
    cause.kind === 'no_such_key' &&
    context.step === 'list' &&
    context.destination.endpoint !== null;
  const kind = isMisplaced ? 'bucket_in_endpoint' : cause.kind;
  return { code: codeOf(kind, context.step), ...wordingOf({ ...cause, kind }, context) };
}

function codeOf(kind: CauseKind, step: StorageStep): StorageErrorCode {
  switch (kind) {
    case 'temporary_key':
      return 'access_key_not_recognised';
    case 'denied':
    case 'suspended':
    case 'locked':
      return step === 'list' ? 'list_denied' : 'write_denied';
    case 'not_implemented':
    case 'bucket_in_endpoint':
      return 'not_s3';
    case 'full':
    case 'no_identity':
    case 'sts_unavailable':
      return 'storage_unavailable';
    case 'no_such_key':
      return 'unknown';
    default:
      return kind;
  }
}
