import { createHash } from 'node:crypto';
import type { ShownDate } from '../aggregations.ts';
import { parquetColumns } from '../column-types.ts';
import {
  describeExport,
  type ExportDescription,
  type ExportSource,
  type OpenExport,
  openExport,
} from '../open-export.ts';
import { convertInWorker } from './convert-in-worker.ts';
import type { ParquetPlace } from './places.ts';
import { parquetRenderer } from './renderer.ts';

/** Opened Parquet file. It has no ranges, because its length is unknown before its last byte. */
export interface OpenParquet extends ExportDescription {
  /** Streams the file. May be called once. An incomplete stream always ends with an error. */
  bytes(): AsyncGenerator<Buffer>;
  close: OpenExport['close'];
}

interface OpenOptions {
  /** Closes the export at once. */
  readonly signal: AbortSignal;
  /** Takes the place of the conversion when the first byte is read. */
  readonly takePlace: () => ParquetPlace;
}

/** Describes the Parquet file of these dates without reading it. */
export async function describeParquet(
  source: ExportSource,
  environmentId: string,
  dates: readonly ShownDate[],
): Promise<ExportDescription> {
  return describeConversion(await describeExport(source, environmentId, dates, 'none'));
}

/** Opens the Parquet file of these dates. It is converted from the rows of the CSV. */
export async function openParquet(
  source: ExportSource,
  environmentId: string,
  dates: readonly ShownDate[],
  { signal, takePlace }: OpenOptions,
): Promise<OpenParquet> {
  const csv = await openExport(source, environmentId, dates, { compression: 'none', signal });
  return {
    ...describeConversion(csv),
    close: csv.close,
    async *bytes() {
      try {
        const place = takePlace();
        const stop = AbortSignal.any([signal, place.signal]);
        // A slow reader may read no bytes for a long time.
        stop.addEventListener('abort', place.release, { once: true });
        try {
          yield* convertInWorker(csv.bytes(), csv.plan.rowCount, stop);
        } finally {
          place.release();
        }
      } finally {
        csv.close();
      }
    },
  };
}

function describeConversion({ plan, contentHash, lastModified }: ExportDescription) {
  const content = JSON.stringify([parquetRenderer, parquetColumns, contentHash]);
  return {
    plan,
    contentHash: createHash('sha256').update(content).digest('hex'),
    lastModified,
    sizeBytes: null,
  };
}
