/** Checks before a config is saved whether a run can write to its bucket. */
import {
  AbortMultipartUploadCommand,
  CreateMultipartUploadCommand,
  ListObjectsV2Command,
  type S3Client,
} from '@aws-sdk/client-s3';
import { type Access, type Destination, isRole, type Role } from '../destination.ts';
import { type Encryption, encryptionParams } from '../encryption.ts';
import { folderOf } from '../object-key.ts';
import { requireUploadId } from './answer-values.ts';
import { type ClientEnvironment, checkTimeouts, createS3Client } from './client.ts';
import { causeOf, NotS3Error } from './error-codes.ts';
import {
  describeStorageError,
  describeStorageErrorAs,
  isBucketInEndpoint,
  StorageError,
  type StorageErrorDetails,
} from './errors.ts';
import type { StorageContext } from './hints.ts';

export interface DestinationCheck {
  readonly name: 'list' | 'write';
  readonly ok: boolean;
  readonly error: StorageErrorDetails | null;
}

export interface CheckResult {
  /** True if both checks passed. */
  readonly valid: boolean;
  /** Results of `list` and `write`, in this order. */
  readonly checks: readonly DestinationCheck[];
}

export interface CheckRequest {
  readonly destination: Destination;
  readonly access: Access;
  /** Default: null, the default of the bucket. */
  readonly encryption?: Encryption | null;
  /**
   * Key that a run will write, because rights may be limited to prefixes and suffixes. No object is
   * created.
   */
  readonly objectKey: string;
  /** Aborts the check, which then rejects with the reason of the signal. */
  readonly signal?: AbortSignal;
  /** Limit in milliseconds. Default: 12,000, because the API answers within 15 s. */
  readonly limitMs?: number;
  /** Called when all requests have ended, which may be after the result. */
  readonly onEnd?: () => void;
}

/**
 * Limit of all requests of a check in milliseconds. An upload that starts late is aborted until
 * then, although the caller already has the result.
 */
const lateLimitMs = 20_000;

/**
 * Lists the folder of the object, and concurrently starts and aborts an upload. Storage errors are
 * part of the result. Rejects only if the signal aborts.
 */
export async function checkDestination(
  {
    destination,
    access,
    encryption = null,
    objectKey,
    signal,
    limitMs = 12_000,
    onEnd,
  }: CheckRequest,
  environment: ClientEnvironment,
): Promise<CheckResult> {
  const client = createS3Client(destination, access, environment, checkTimeouts);
  const limit = AbortSignal.any([AbortSignal.timeout(limitMs), ...(signal ? [signal] : [])]);
  const proven = isRole(access)
    ? requireExternalId(client, destination, access, environment)
    : null;
  const listing = after(proven, () => list(client, destination, objectKey, limit));
  const writing = after(proven, () => write(client, destination, objectKey, encryption));
  void Promise.allSettled([listing, writing]).then(() => {
    client.destroy();
    onEnd?.();
  });
  const [listed, written] = await Promise.allSettled([
    within(listing, limit),
    within(writing, limit),
  ]);
  signal?.throwIfAborted();
  const describe = (step: 'list' | 'write', outcome: PromiseSettledResult<void>) => {
    if (outcome.status === 'fulfilled') return null;
    const { reason } = outcome;
    const context = { step, destination, access };
    // RADOS Gateway answers InvalidAccessKeyId if it does not know the key of the encryption. The
    // list was accepted, so the access key is known.
    const isKmsKey =
      step === 'write' &&
      encryption !== null &&
      listed.status === 'fulfilled' &&
      causeOf(reason).kind === 'access_key_not_recognised';
    return isKmsKey
      ? describeStorageErrorAs('encryption_denied', reason, context)
      : detailsOf(reason, context);
  };
  // The write would then succeed, but in a folder with the name of the bucket.
  const isMisplaced =
    destination.endpoint !== null &&
    listed.status === 'rejected' &&
    isBucketInEndpoint(listed.reason);
  const misplaced = isMisplaced ? describe('list', listed) : null;
  const checks = [
    report('list', misplaced ?? describe('list', listed)),
    report('write', misplaced ?? describe('write', written)),
  ];
  return { valid: checks.every(check => check.ok), checks };
}

/**
 * Requires that the role can be assumed with the external id of the environment and not without.
 * Else another customer could name the role in a config.
 */
async function requireExternalId(
  client: S3Client,
  destination: Destination,
  access: Role,
  { roles }: ClientEnvironment,
): Promise<void> {
  await client.config.credentials();
  try {
    await roles?.assume({ roleArn: access.roleArn, externalId: null });
  } catch (error) {
    if (causeOf(error).kind === 'role_denied') return;
    throw error;
  }
  const context = { step: 'list', destination, access } as const;
  const details = describeStorageErrorAs('external_id_not_enforced', null, context);
  throw new StorageError(details, null);
}

async function after(first: Promise<void> | null, work: () => Promise<void>): Promise<void> {
  await first;
  await work();
}

async function list(
  client: S3Client,
  { bucket }: Destination,
  key: string,
  limit: AbortSignal,
): Promise<void> {
  const answer = await client.send(
    new ListObjectsV2Command({ Bucket: bucket, Prefix: folderOf(key), MaxKeys: 1 }),
    { abortSignal: limit },
  );
  // The SDK accepts any XML document with status 200, such as a web page.
  if (answer.KeyCount === undefined && answer.Name === undefined)
    throw new NotS3Error('not a list of objects');
}

/**
 * Tries an upload with the encryption of the config. Storage rejects encryption with many codes:
 * AccessDenied, InvalidArgument, NotImplemented, and RADOS Gateway even with InvalidAccessKeyId. If
 * the same upload starts without encryption, the encryption was the reason.
 */
async function write(
  client: S3Client,
  destination: Destination,
  key: string,
  encryption: Encryption | null,
): Promise<void> {
  const late = AbortSignal.timeout(lateLimitMs);
  try {
    await tryUpload(client, destination, key, encryption, late);
  } catch (error) {
    if (encryption === null || error instanceof StorageError || !mayBeEncryption(error))
      throw error;
    const startsWithout = await tryUpload(client, destination, key, null, late).then(
      () => true,
      () => false,
    );
    if (!startsWithout) throw error;
    throw new StorageError(
      describeStorageErrorAs('encryption_denied', error, { step: 'write', destination }),
      error,
    );
  }
}

function mayBeEncryption(error: unknown): boolean {
  return [
    'denied',
    'access_key_not_recognised',
    'not_implemented',
    'unknown',
    'encryption_denied',
  ].includes(causeOf(error).kind);
}

/**
 * Starts and aborts an upload. Ignores the limit of the check, because an upload that starts late
 * must be aborted too.
 */
async function tryUpload(
  client: S3Client,
  destination: Destination,
  key: string,
  encryption: Encryption | null,
  late: AbortSignal,
): Promise<void> {
  const Bucket = destination.bucket;
  const options = { abortSignal: late };
  const answer = await client.send(
    new CreateMultipartUploadCommand({ Bucket, Key: key, ...encryptionParams(encryption) }),
    options,
  );
  const UploadId = requireUploadId(answer.UploadId);
  try {
    await client.send(new AbortMultipartUploadCommand({ Bucket, Key: key, UploadId }), options);
  } catch (error) {
    throw new StorageError(describeStorageError(error, { step: 'abort', destination }), error);
  }
}

function detailsOf(error: unknown, context: StorageContext): StorageErrorDetails {
  return error instanceof StorageError ? error.details : describeStorageError(error, context);
}

function report(
  name: DestinationCheck['name'],
  error: StorageErrorDetails | null,
): DestinationCheck {
  return { name, ok: error === null, error };
}

/**
 * Waits for the work. Rejects with the reason of the signal if that aborts first. The work then
 * continues in the background.
 */
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
