import { createHash } from 'node:crypto';
import { parquetColumns } from '../column-types.ts';
import type { ExportDescription, OpenExport } from '../describe-export.ts';
import { convertInWorker } from './convert-in-worker.ts';
import type { ParquetPlace } from './places.ts';
import { parquetRenderer } from './renderer.ts';

interface ConvertOptions {
  /** Ends the conversion at once. */
  readonly signal: AbortSignal;
  /** Takes the place of the conversion when the first byte is read. */
  readonly takePlace: () => ParquetPlace;
}

/** Describes the Parquet file of a CSV. Its length is unknown before its last byte. */
export function describeParquet({
  plan,
  contentHash,
  lastModified,
}: ExportDescription): ExportDescription {
  const content = JSON.stringify([parquetRenderer, parquetColumns, contentHash]);
  return {
    plan,
    contentHash: createHash('sha256').update(content).digest('hex'),
    lastModified,
    sizeBytes: null,
  };
}

/** Returns the Parquet file of an opened CSV. */
export function convertToParquet(
  csv: OpenExport,
  { signal, takePlace }: ConvertOptions,
): OpenExport {
  return {
    ...describeParquet(csv),
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
