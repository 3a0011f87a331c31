/** Before a config is saved, the real bucket is asked whether a run will be able to do its work there. */
import {
  AbortMultipartUploadCommand,
  CreateMultipartUploadCommand,
  ListObjectsV2Command,
  type S3Client,
} from '@aws-sdk/client-s3';
import type { Credentials, Destination } from '../destination.ts';
import { keyPrefix } from '../object-key.ts';
import { type ClientEnvironment, checkPatience, createS3Client } from './client.ts';
import { NotS3Error } from './error-codes.ts';
import {
  describeStorageError,
  StorageError,
  type StorageFault,
  type StorageStep,
} from './errors.ts';

export interface DestinationCheck {
  readonly name: 'list' | 'write';
  readonly ok: boolean;
  readonly error: StorageFault | null;
}

export interface CheckResult {
  /** Both passed. */
  readonly valid: boolean;
  /** `list`, then `write`. */
  readonly checks: readonly DestinationCheck[];
}

export interface CheckRequest {
  readonly destination: Destination;
  readonly credentials: Credentials;
  /** Of the shape that a run will write, because rights may be given for prefixes and suffixes. No object is made. */
  readonly objectKey: string;
  /** Ends the check, which then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Until the answer; 12 s, of the 15 s that the contract promises, unless told. */
  readonly limitMs?: number;
}

/** How long what a late answer began is still pursued, so that it can be aborted, after the caller has been answered. */
const lateLimitMs = 20_000;

/**
 * Lists under the real prefix, and starts and aborts an upload of the real key, both at once. Faults are in the
 * result; it rejects only when the signal aborts.
 */
export async function checkDestination(
  { destination, credentials, objectKey, signal, limitMs = 12_000 }: CheckRequest,
  environment: ClientEnvironment,
): Promise<CheckResult> {
  const client = createS3Client(destination, credentials, environment, checkPatience);
  const limit = AbortSignal.any([AbortSignal.timeout(limitMs), ...(signal ? [signal] : [])]);
  const listed = list(client, destination, limit);
  const written = write(client, destination, objectKey);
  void Promise.allSettled([listed, written]).then(() => client.destroy());
  const checks = await Promise.all([
    report('list', within(listed, limit), destination),
    report('write', within(written, limit), destination),
  ]);
  signal?.throwIfAborted();
  return { valid: checks.every(check => check.ok), checks };
}

async function list(
  client: S3Client,
  { bucket, key }: Destination,
  limit: AbortSignal,
): Promise<void> {
  const answer = await client.send(
    new ListObjectsV2Command({ Bucket: bucket, Prefix: keyPrefix(key), MaxKeys: 1 }),
    { abortSignal: limit },
  );
  // Any XML document with status 200 passes the SDK, a web page too.
  if (answer.KeyCount === undefined && answer.Name === undefined)
    throw new NotS3Error('not a list of objects');
}

/** Not bound to the check's limit: an upload that the other side began has to be aborted, however late it says so. */
async function write(client: S3Client, destination: Destination, key: string): Promise<void> {
  const Bucket = destination.bucket;
  const late = { abortSignal: AbortSignal.timeout(lateLimitMs) };
  const { UploadId } = await client.send(
    new CreateMultipartUploadCommand({ Bucket, Key: key }),
    late,
  );
  if (UploadId === undefined) throw new NotS3Error('no upload was started');
  try {
    await client.send(new AbortMultipartUploadCommand({ Bucket, Key: key, UploadId }), late);
  } catch (error) {
    throw new StorageError(describeStorageError(error, { step: 'abort', destination }), error);
  }
}

async function report(
  step: Extract<StorageStep, 'list' | 'write'>,
  work: Promise<void>,
  destination: Destination,
): Promise<DestinationCheck> {
  try {
    await work;
    return { name: step, ok: true, error: null };
  } catch (error) {
    const fault =
      error instanceof StorageError
        ? error.fault
        : describeStorageError(error, { step, destination });
    return { name: step, ok: false, error: fault };
  }
}

/** Rejects with the signal's reason when that aborts first; what the work comes to then is nobody's business here. */
async function within(work: Promise<void>, limit: AbortSignal): Promise<void> {
  const { promise: over, reject } = Promise.withResolvers<never>();
  const stop = () => reject(limit.reason);
  if (limit.aborted) stop();
  limit.addEventListener('abort', stop, { once: true });
  try {
    await Promise.race([work, over]);
  } finally {
    limit.removeEventListener('abort', stop);
  }
}
