import { PutObjectCommand, type S3Client } from '@aws-sdk/client-s3';
import type { Destination } from '../destination.ts';
import { type Compression, manifestKey } from '../object-key.ts';
import { NotS3Error } from './error-codes.ts';
import { describeStorageError, StorageError } from './errors.ts';

/** Says of an object, in the same bucket, what it is and that it is whole (contract, section 6). */
export interface Manifest {
  readonly objectKey: string;
  readonly bytes: number;
  readonly rowCount: number;
  /** Lower-case hex, of the object's bytes. */
  readonly sha256: string;
  /** YYYY-MM-DD */
  readonly snapshotDate: string;
  readonly columns: readonly string[];
  /** Instant, when the object was complete. */
  readonly completedAt: string;
}

/** @throws StorageError when the storage fails; the signal's reason when that aborted. */
export async function putManifest(
  client: S3Client,
  destination: Destination,
  environmentId: string,
  compression: Compression,
  manifest: Manifest,
  signal: AbortSignal,
): Promise<void> {
  const { snapshotDate } = manifest;
  try {
    const { ETag } = await client.send(
      new PutObjectCommand({
        Bucket: destination.bucket,
        Key: manifestKey(destination.key, { environmentId, compression, snapshotDate }),
        Body: `${JSON.stringify(manifest)}\n`,
        ContentType: 'application/json',
      }),
      { abortSignal: signal },
    );
    if (ETag === undefined) throw new NotS3Error('not an answer of S3');
  } catch (error) {
    signal.throwIfAborted();
    throw new StorageError(describeStorageError(error, { step: 'upload', destination }), error);
  }
}
