/** Takes back what an upload that did not end has left in a customer's bucket, where it would be paid for unseen. */
import {
  AbortMultipartUploadCommand,
  ListMultipartUploadsCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import type { Destination } from '../destination.ts';
import { describeStorageError, isTransient, StorageError } from './errors.ts';

const limitMs = 20_000;

/**
 * Resolves when no upload of that id is left, whether it was there or not.
 *
 * @throws StorageError when the storage does not let us, or cannot be reached within 20 s.
 */
export async function abortUpload(
  client: S3Client,
  destination: Destination,
  key: string,
  uploadId: string,
): Promise<void> {
  try {
    await client.send(
      new AbortMultipartUploadCommand({ Bucket: destination.bucket, Key: key, UploadId: uploadId }),
      { abortSignal: AbortSignal.timeout(limitMs) },
    );
  } catch (error) {
    if (isGone(error)) return;
    throw new StorageError(describeStorageError(error, { step: 'abort', destination }), error);
  }
}

/**
 * Aborts the uploads of that very key, but for those that are named: the id of an upload whose start was never answered
 * is known to the storage alone. Only where the key may ask for it (ListBucketMultipartUploads), which the least rights
 * of the guide do not include.
 *
 * @returns how many, or null when they may not be listed.
 * @throws StorageError when one cannot be aborted, or the storage cannot be asked.
 */
export async function abortUnfinishedUploads(
  client: S3Client,
  destination: Destination,
  key: string,
  except: readonly string[] = [],
): Promise<number | null> {
  const listed = await listUnfinishedUploads(client, destination, key);
  const uploadIds = listed?.filter(id => !except.includes(id));
  for (const uploadId of uploadIds ?? []) await abortUpload(client, destination, key, uploadId);
  return uploadIds?.length ?? null;
}

async function listUnfinishedUploads(
  client: S3Client,
  destination: Destination,
  key: string,
): Promise<string[] | null> {
  try {
    // One page: a key has as many unfinished uploads as attempts that died, and longer keys sort after it.
    const { Uploads = [] } = await client.send(
      new ListMultipartUploadsCommand({ Bucket: destination.bucket, Prefix: key }),
      {
        abortSignal: AbortSignal.timeout(limitMs),
      },
    );
    return Uploads.filter(({ Key }) => Key === key)
      .map(({ UploadId }) => UploadId)
      .filter(id => id !== undefined);
  } catch (error) {
    const fault = describeStorageError(error, { step: 'list', destination });
    if (isTransient(fault.code)) throw new StorageError(fault, error);
    return null;
  }
}

function isGone(error: unknown): boolean {
  return (
    typeof error === 'object' && error !== null && 'name' in error && error.name === 'NoSuchUpload'
  );
}
