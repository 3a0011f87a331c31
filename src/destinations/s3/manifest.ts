/**
 * Writes and removes manifests, the commit point of an export. A manifest is removed before its
 * object is replaced, and written once the object is complete. A reader that finds a manifest
 * therefore finds the object that it describes.
 */
import {
  DeleteObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import type { Compression, FileFormat } from '../../shared/file-format.ts';
import type { Destination } from '../destination.ts';
import { type Encryption, encryptionParams } from '../encryption.ts';
import { manifestKey } from '../object-key.ts';
import { NotS3Error } from './error-codes.ts';
import { describeStorageError, StorageError } from './errors.ts';
import type { StorageStep } from './hints.ts';

export interface Manifest {
  readonly manifestVersion: 1;
  readonly environmentId: string;
  readonly configId: string;
  readonly runId: string;
  /** YYYY-MM-DD */
  readonly snapshotDate: string;
  /** Differs for each replacement of the snapshot. */
  readonly snapshotVersion: string;
  readonly objectKey: string;
  readonly format: FileFormat;
  readonly compression: Compression;
  readonly bytes: number;
  readonly rowCount: number;
  /** SHA-256 of the object in lower-case hex. */
  readonly sha256: string;
  readonly columns: readonly {
    readonly name: string;
    readonly type: string;
    readonly nullable: boolean;
  }[];
  /** Instant at which the object was complete. */
  readonly completedAt: string;
}

/**
 * Writes a manifest.
 * @param encryption null for the default of the bucket
 * @throws StorageError if the storage fails; the reason of the signal if it aborts
 */
export async function putManifest(
  client: S3Client,
  destination: Destination,
  encryption: Encryption | null,
  manifest: Manifest,
  signal: AbortSignal,
): Promise<void> {
  await attempt('upload', destination, signal, async () => {
    const { ETag } = await client.send(
      new PutObjectCommand({
        Bucket: destination.bucket,
        Key: manifestKey(destination.key, manifest),
        Body: `${JSON.stringify(manifest)}\n`,
        ContentType: 'application/json',
        ...encryptionParams(encryption),
      }),
      { abortSignal: signal },
    );
    if (ETag === undefined) throw new NotS3Error('not an answer of S3');
  });
}

/**
 * Removes the manifest of an object that is about to be replaced. Lists first, so that a first
 * export needs no right to delete. It also leaves no delete marker in a versioned bucket.
 *
 * @param mustList false if a refused look-up counts as no manifest
 * @throws StorageError if the storage fails or refuses; the reason of the signal if it aborts
 */
export async function removeManifest(
  client: S3Client,
  destination: Destination,
  key: string,
  mustList: boolean,
  signal: AbortSignal,
): Promise<void> {
  const { bucket: Bucket } = destination;
  const options = { abortSignal: signal };
  const isThere = await attempt('list', destination, signal, async () => {
    const list = new ListObjectsV2Command({ Bucket, Prefix: key, MaxKeys: 1 });
    const { Contents = [] } = await client.send(list, options);
    return Contents[0]?.Key === key;
  }).catch((error: unknown) => {
    const isDenied = error instanceof StorageError && error.details.code === 'list_denied';
    if (mustList || !isDenied) throw error;
    return false;
  });
  if (!isThere) return;
  await attempt('remove', destination, signal, async () => {
    await client.send(new DeleteObjectCommand({ Bucket, Key: key }), options);
  });
}

async function attempt<T>(
  step: StorageStep,
  destination: Destination,
  signal: AbortSignal,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    signal.throwIfAborted();
    throw new StorageError(describeStorageError(error, { step, destination }), error);
  }
}
