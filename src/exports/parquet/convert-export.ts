import { convertInWorker } from './convert-in-worker.ts';
import type { ParquetPlace } from './places.ts';

interface OpenCsv {
  readonly rowCount: number;
  bytes(): AsyncGenerator<Buffer>;
  close(): void;
}

/**
 * Converts an opened CSV to Parquet, and closes it at the end.
 * @param signal ends the conversion at once
 */
export async function* convertToParquet(
  csv: OpenCsv,
  takePlace: () => ParquetPlace,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  try {
    const place = takePlace();
    const stop = AbortSignal.any([signal, place.signal]);
    // A slow reader may read no bytes for a long time.
    stop.addEventListener('abort', place.release, { once: true });
    try {
      yield* convertInWorker(csv.bytes(), csv.rowCount, stop);
    } finally {
      // A composite signal with a listener stays in memory as long as its sources. Those of a run
      // last as long as the process.
      stop.removeEventListener('abort', place.release);
      place.release();
    }
  } finally {
    csv.close();
  }
}
