import type { S3Client } from '@aws-sdk/client-s3';
import { borrow } from '../db/borrow.ts';
import { manifestKey, objectKey } from '../destinations/object-key.ts';
import { putManifest, removeManifest } from '../destinations/s3/manifest.ts';
import { type UploadRequest, uploadObject } from '../destinations/s3/upload.ts';
import type { ConfigSettings } from '../export-configs/repository.ts';
import { onlyThatDay } from '../exports/aggregations.ts';
import { csvColumns, parquetColumns } from '../exports/column-types.ts';
import { describeExport } from '../exports/describe-export.ts';
import { type ExportSource, openExport } from '../exports/open-export.ts';
import type { ParquetPlace, ParquetPlaces } from '../exports/parquet/places.ts';
import { extensionOf, mediaTypes } from '../shared/file-format.ts';
import type { RunResult } from './outcomes-repository.ts';
import { SnapshotAbsentError } from './run-errors.ts';

/**
 * Uploads one snapshot from the database to the bucket. The file equals a manual export of that day
 * in the same format.
 */

export interface TransferRequest {
  readonly environmentId: string;
  readonly configId: string;
  readonly runId: string;
  readonly snapshotDate: string;
  readonly config: Pick<
    ConfigSettings,
    'destination' | 'format' | 'compression' | 'manifest' | 'encryption'
  >;
  readonly parquetPlaces: ParquetPlaces;
  readonly signal: AbortSignal;
  readonly onMultipartStarted: UploadRequest['onMultipartStarted'];
  readonly onMultipartAborted: () => Promise<void>;
  /**
   * Called between the last byte and the completion of the object.
   * @throws to prevent the completion
   */
  readonly beforeCompletion: () => Promise<void>;
  readonly beforeLastRequest: () => Promise<void>;
  readonly now: () => Date;
}

/**
 * Estimated bytes per row, above the usual size with lists of segments. Uploads leave room for
 * twice as much.
 */
const expectedRowBytes = 400;

/**
 * Writes the object, then the manifest if the config has one. The object appears complete or not at
 * all. An older manifest is removed before the object is replaced, also if the config no longer has
 * one. Waits for a place before a conversion to Parquet.
 *
 * @throws SnapshotAbsentError, StorageError, the reason of the signal, or the driver's error; also
 * if the number of rows differs from the registry
 */
export async function transfer(
  source: ExportSource,
  client: S3Client,
  request: TransferRequest,
): Promise<RunResult> {
  if (request.config.format === 'csv') return await transferFile(source, client, request, null);
  const place = await request.parquetPlaces.takeForRun(request.environmentId, request.signal);
  try {
    return await transferFile(source, client, request, place);
  } finally {
    place.release();
  }
}

/** @param place place of the conversion to Parquet; null for CSV */
async function transferFile(
  source: ExportSource,
  client: S3Client,
  request: TransferRequest,
  place: ParquetPlace | null,
): Promise<RunResult> {
  const { environmentId, configId, runId, snapshotDate, config, signal } = request;
  const { destination, format, compression, encryption } = config;
  const dates = [onlyThatDay(snapshotDate)];
  const described = await borrow(source.exportPool, signal, connection =>
    describeExport(connection, { environmentId, dates, format, compression }),
  );
  const opened = await openExport(source, described, {
    signal,
    takePlace: () => {
      if (place === null) throw new Error('This file has no place for its conversion.');
      return place;
    },
  });
  try {
    const [section] = opened.sections;
    if (section === undefined) throw new SnapshotAbsentError(`no snapshot of ${snapshotDate}`);
    const { rowCount } = opened;
    const name = { environmentId, snapshotDate, format, compression };
    const key = objectKey(destination.key, name);
    const keyOfManifest = manifestKey(destination.key, name);
    const beforeCompletion = async () => {
      await request.beforeCompletion();
      await removeManifest(client, destination, keyOfManifest, config.manifest, signal);
    };
    const object = await uploadObject(client, {
      destination,
      key,
      body: thenCall(opened.bytes(), beforeCompletion),
      encryption,
      contentType: mediaTypes[extensionOf(name)],
      metadata: {
        'row-count': String(rowCount),
        'snapshot-date': snapshotDate,
        'environment-id': environmentId,
      },
      expectedSizeBytes: rowCount * expectedRowBytes,
      signal,
      onMultipartStarted: request.onMultipartStarted,
      onMultipartAborted: request.onMultipartAborted,
      beforeLastRequest: request.beforeLastRequest,
    });
    const result = {
      ...object,
      rowCount,
      objectKey: key,
      manifestKey: config.manifest ? keyOfManifest : null,
      snapshotVersion: section.version,
    };
    if (config.manifest) {
      const manifest = {
        manifestVersion: 1,
        environmentId,
        configId,
        runId,
        snapshotDate,
        snapshotVersion: section.version,
        objectKey: key,
        format,
        compression,
        bytes: object.bytes,
        rowCount,
        sha256: object.sha256,
        columns: format === 'csv' ? csvColumns : parquetColumns,
        completedAt: request.now().toISOString(),
      } as const;
      await putManifest(client, destination, encryption, manifest, signal);
    }
    return result;
  } finally {
    opened.close();
  }
}

/**
 * Passes the bytes through, then calls `last`. Copies them, because uploads hold pieces until a
 * part is full.
 */
async function* thenCall(
  bytes: AsyncIterable<Buffer>,
  last: () => Promise<void>,
): AsyncGenerator<Buffer> {
  for await (const piece of bytes) yield Buffer.from(piece);
  await last();
}
