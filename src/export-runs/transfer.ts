import type { S3Client } from '@aws-sdk/client-s3';
import { objectKey } from '../destinations/object-key.ts';
import { putManifest } from '../destinations/s3/manifest.ts';
import { type UploadRequest, uploadObject } from '../destinations/s3/upload.ts';
import type { ConfigSettings } from '../export-configs/repository.ts';
import { onlyThatDay } from '../exports/aggregations.ts';
import { type ExportSource, openExport } from '../exports/open-export.ts';
import { columns } from '../snapshots/columns.ts';
import { SnapshotAbsentError } from './run-errors.ts';
import type { RunResult } from './update-run.ts';

/** From the database to the bucket: the same file as that day's part of the manual export. */

export interface TransferRequest {
  readonly environmentId: string;
  readonly snapshotDate: string;
  readonly config: Pick<ConfigSettings, 'destination' | 'compression' | 'manifest'>;
  readonly signal: AbortSignal;
  readonly onMultipartStarted: UploadRequest['onMultipartStarted'];
  readonly onMultipartAborted: () => Promise<void>;
  /** Asked between the last byte and the object's completion. @throws to let no object appear */
  readonly beforeCompletion: () => Promise<void>;
  readonly now: () => Date;
}

/** Above what rows of this model take, lists of segments included; uploads leave room for twice as much. */
const expectedRowBytes = 400;

/**
 * Writes the object, then the manifest if the config wants one. The object appears whole or not at all.
 * @throws SnapshotAbsentError, StorageError, the signal's reason, or what the database throws; also when the rows were
 *   not as many as the registry says
 */
export async function transfer(
  source: ExportSource,
  client: S3Client,
  request: TransferRequest,
): Promise<RunResult> {
  const { environmentId, snapshotDate, config, signal } = request;
  const { destination, compression } = config;
  const options = { compression, signal };
  const opened = await openExport(source, environmentId, [onlyThatDay(snapshotDate)], options);
  try {
    if (opened.plan.sections.length === 0)
      throw new SnapshotAbsentError(`no snapshot of ${snapshotDate}`);
    const { rowCount } = opened.plan;
    const key = objectKey(destination.key, { environmentId, snapshotDate, compression });
    const object = await uploadObject(client, {
      destination,
      key,
      body: thenAsk(opened.bytes(), request.beforeCompletion),
      contentType: compression === 'gzip' ? 'application/gzip' : 'text/csv',
      metadata: {
        'row-count': String(rowCount),
        'snapshot-date': snapshotDate,
        'environment-id': environmentId,
      },
      expectedSizeBytes: rowCount * expectedRowBytes,
      signal,
      onMultipartStarted: request.onMultipartStarted,
      onMultipartAborted: request.onMultipartAborted,
    });
    const result = { ...object, rowCount, objectKey: key };
    if (config.manifest) {
      const about = {
        snapshotDate,
        columns: columns.map(column => column.header),
        completedAt: request.now().toISOString(),
      };
      await putManifest(
        client,
        destination,
        environmentId,
        compression,
        { ...result, ...about },
        signal,
      );
    }
    return result;
  } finally {
    opened.close();
  }
}

/** Copies, because uploads hold what they are given until a part is full. */
async function* thenAsk(
  bytes: AsyncIterable<Buffer>,
  ask: () => Promise<void>,
): AsyncGenerator<Buffer> {
  for await (const piece of bytes) yield Buffer.from(piece);
  await ask();
}
