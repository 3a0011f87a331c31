import type { StorageErrorCode } from '../../../src/destinations/s3/errors.ts';

/** All storage error codes. True if a run with this error is repeated. */
export const storageErrorCodes: Record<StorageErrorCode, boolean> = {
  access_key_not_recognised: false,
  secret_key_mismatch: false,
  role_denied: false,
  external_id_not_enforced: false,
  bucket_not_found: false,
  wrong_region: false,
  list_denied: false,
  write_denied: false,
  encryption_denied: false,
  endpoint_not_allowed: false,
  not_s3: false,
  endpoint_unreachable: true,
  timeout: true,
  tls_error: true,
  clock_skew: true,
  storage_unavailable: true,
  unknown: true,
};
