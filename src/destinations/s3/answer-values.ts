import { NotS3Error } from './error-codes.ts';

/**
 * Checks values of responses that go into the database or into later requests. An endpoint may send
 * anything. PostgreSQL refuses NUL, and a long value would fill rows and log lines.
 */

/** Returns an upload id of at most 1,024 printable ASCII characters. @throws NotS3Error */
export function requireUploadId(value: unknown): string {
  if (isUploadId(value)) return value;
  throw new NotS3Error('the answer has no usable upload id');
}

export function isUploadId(value: unknown): value is string {
  return typeof value === 'string' && /^[\x21-\x7e]{1,1024}$/.test(value);
}

/**
 * Returns an ETag of at most 256 printable ASCII characters. It may be empty, because RADOS Gateway
 * completes uploads with an empty one.
 *
 * @throws NotS3Error
 */
export function requireETag(value: unknown): string {
  if (typeof value === 'string' && /^[\x20-\x7e]{0,256}$/.test(value)) return value;
  throw new NotS3Error('the answer has no usable ETag');
}
