import type { S3Client } from '@aws-sdk/client-s3';
import { objectKey } from '../destinations/object-key.ts';
import { abortOrphanedUploads, abortUpload } from '../destinations/s3/abort-upload.ts';
import { isTransient, StorageError, type StorageErrorCode } from '../destinations/s3/errors.ts';
import { type Attempt, type JobContext, readJobContext } from './attempts-repository.ts';
import { describeForLog } from './describe-for-log.ts';
import type { RunDependencies } from './run-dependencies.ts';
import { readUploadsUnderWay } from './uploads-repository.ts';
import { watchDeletion } from './watch-attempt.ts';

/** Aborts uploads that attempts left in the bucket. */

type CleanupDependencies = Pick<RunDependencies, 'db' | 'log'>;

/**
 * Aborts uploads that earlier attempts left in the bucket. Takes at most 80 s: 20 s for the
 * recorded upload, 60 s for orphaned ones.
 *
 * @returns the error code if an upload is left that may be aborted later
 * @throws the reason of the signal if it aborts
 */
export async function cleanUpUploads(
  client: S3Client | null,
  dependencies: CleanupDependencies,
  context: JobContext,
  signal: AbortSignal,
): Promise<StorageErrorCode | null> {
  if (context.attempt.number === 0 || client === null) return null;
  const failure = await abortRecordedUpload(client, dependencies, context, signal);
  if (failure !== null) return failure;
  await abortOrphanedUploadsOf(client, dependencies, context, signal);
  signal.throwIfAborted();
  return null;
}

async function abortRecordedUpload(
  client: S3Client,
  dependencies: CleanupDependencies,
  context: JobContext,
  signal: AbortSignal,
): Promise<StorageErrorCode | null> {
  const { attempt, config, uploadId } = context;
  if (uploadId === null) return null;
  try {
    await abortUpload(client, config.destination, keyOf(context), uploadId, signal);
    return null;
  } catch (error) {
    signal.throwIfAborted();
    warnOfUpload(dependencies, attempt, error);
    const code = error instanceof StorageError ? error.details.code : 'unknown';
    // An unknown code may mean that the upload does not exist. The run does not wait for that.
    return isTransient(code) && code !== 'unknown' ? code : null;
  }
}

/** Limit in milliseconds. `abortOrphanedUploads` limits the number of uploads. */
const orphanedLimitMs = 60_000;

/**
 * Aborts uploads of the run's key that no run has recorded, if the access key may list them. A
 * start whose answer was lost may have created one. Uploads in progress are kept, because another
 * config may write the same key. Does nothing if a later attempt has begun, because that one does
 * the same. Ends when the environment is deleted.
 */
export async function abortOrphanedUploadsOf(
  client: S3Client | null,
  dependencies: CleanupDependencies,
  context: JobContext,
  signal: AbortSignal,
): Promise<void> {
  if (client === null) return;
  const { db } = dependencies;
  const { attempt, config } = context;
  const deletion = watchDeletion(db, attempt);
  const limit = AbortSignal.any([signal, deletion.signal, AbortSignal.timeout(orphanedLimitMs)]);
  try {
    await deletion.check();
    const now = await readJobContext(db, attempt, attempt.jobId);
    if (now !== null && now.attempt.number !== attempt.number) return;
    const underWay = await readUploadsUnderWay(db, attempt.environmentId);
    await abortOrphanedUploads(client, config.destination, keyOf(context), underWay, limit);
  } catch (error) {
    warnOfUpload(dependencies, attempt, error);
  } finally {
    deletion.end();
  }
}

function warnOfUpload({ log }: CleanupDependencies, { runId }: Attempt, error: unknown): void {
  log.warn({ runId, err: describeForLog(error) }, 'upload abort failed');
}

function keyOf({ attempt, config, snapshotDate }: JobContext): string {
  const { environmentId } = attempt;
  const { destination, format, compression } = config;
  return objectKey(destination.key, { environmentId, snapshotDate, format, compression });
}
