import {
  AbortMultipartUploadCommand,
  ListMultipartUploadsCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import type { Destination } from '../destination.ts';
import { isUploadId } from './answer-values.ts';
import { describeStorageError, isTransient, StorageError } from './errors.ts';

/** Aborts unfinished uploads in a tenant's bucket, where they cost money unnoticed. */

/** Limit of one request in milliseconds, retries included. */
const limitMs = 20_000;
/** Maximum number of uploads to abort, because an endpoint may list uploads without end. */
const maxUploads = 20;
/** Maximum number of uploads to list. Some of the first may be in progress and must stay. */
const maxListedUploads = 30;

/**
 * Aborts an upload. Succeeds if no upload with that id is left, whether it existed or not.
 *
 * @throws StorageError if the storage refuses or does not answer within 20 s; the reason of the
 * signal if it aborts
 */
export async function abortUpload(
  client: S3Client,
  destination: Destination,
  key: string,
  uploadId: string,
  signal?: AbortSignal,
): Promise<void> {
  try {
    await client.send(
      new AbortMultipartUploadCommand({ Bucket: destination.bucket, Key: key, UploadId: uploadId }),
      { abortSignal: limitedBy(signal) },
    );
  } catch (error) {
    if (isGone(error)) return;
    signal?.throwIfAborted();
    throw new StorageError(describeStorageError(error, { step: 'abort', destination }), error);
  }
}

/**
 * Aborts up to 20 uploads of exactly that key, except the given ones. Only the storage knows the id
 * of an upload whose start was not answered. Needs the right ListBucketMultipartUploads, which is
 * not among the minimal rights in the guide.
 *
 * @returns the number of uploads that were aborted, or null if they may not be listed
 * @throws StorageError if an upload cannot be aborted or the storage does not answer; the reason of
 * the signal if it aborts
 */
export async function abortOrphanedUploads(
  client: S3Client,
  destination: Destination,
  key: string,
  except: readonly string[],
  signal: AbortSignal,
): Promise<number | null> {
  const listed = await listUnfinishedUploads(client, destination, key, signal);
  if (listed === null) return null;
  const uploadIds = listed.filter(id => !except.includes(id)).slice(0, maxUploads);
  for (const uploadId of uploadIds) await abortUpload(client, destination, key, uploadId, signal);
  return uploadIds.length;
}

async function listUnfinishedUploads(
  client: S3Client,
  destination: Destination,
  key: string,
  signal: AbortSignal,
): Promise<string[] | null> {
  try {
    // Longer keys sort after this one, so the first page contains its uploads.
    const { Uploads = [] } = await client.send(
      new ListMultipartUploadsCommand({
        Bucket: destination.bucket,
        Prefix: key,
        MaxUploads: maxListedUploads,
      }),
      { abortSignal: limitedBy(signal) },
    );
    return Uploads.filter(({ Key }) => Key === key)
      .map(({ UploadId }) => UploadId)
      .filter(isUploadId);
  } catch (error) {
    signal.throwIfAborted();
    const details = describeStorageError(error, { step: 'list', destination });
    if (isTransient(details.code)) throw new StorageError(details, error);
    return null;
  }
}

function limitedBy(signal: AbortSignal | undefined): AbortSignal {
  const limit = AbortSignal.timeout(limitMs);
  return signal === undefined ? limit : AbortSignal.any([limit, signal]);
}

function isGone(error: unknown): boolean {
  return (
    typeof error === 'object' && error !== null && 'name' in error && error.name === 'NoSuchUpload'
  );
}
