import { AppError } from '../../shared/errors.ts';

/**
 * Limits how many files this process converts to Parquet at once. Each conversion takes up to one
 * core and its own heap. An environment has at most one place, for runs and downloads together.
 */
export interface ParquetPlaces {
  /**
   * Takes a place for a download. Ends a download that has had its place for `shareMs`.
   * @throws AppError `too_many_downloads` if all places are taken, or if the environment has one
   */
  takeForDownload(environmentId: string): ParquetPlace;
  /**
   * Waits for a place for a run. Waiting runs go before downloads.
   * @throws NoParquetPlaceError if there was none in time; the reason of the signal
   */
  takeForRun(environmentId: string, signal: AbortSignal): Promise<ParquetPlace>;
  /** Number of places that are taken. */
  readonly taken: number;
}

export interface ParquetPlace {
  /** Aborts when another environment or a run needs the place of this download. */
  readonly signal: AbortSignal;
  /** Returns the place; further calls have no effect. */
  release(): void;
}

export interface ParquetPlacesOptions {
  /** Number of places. */
  readonly total: number;
  /** Time in ms after which a download gives way, because its reader may be slow. */
  readonly shareMs: number;
  /** Longest wait of a run in ms. A waiting run keeps a worker from other runs. */
  readonly waitMs: number;
}

export const parquetPlacesOptions: ParquetPlacesOptions = {
  total: 2,
  shareMs: 5 * 60_000,
  waitMs: 60_000,
};

/** Error for a run that got no place in time. */
export class NoParquetPlaceError extends Error {
  override readonly name = 'NoParquetPlaceError';

  constructor() {
    super('All places for Parquet files are taken.');
  }
}

const checkMs = 1_000;
const retryAfterSeconds = '5';

interface Holder {
  readonly environmentId: string;
  readonly startedAt: number;
  /** Ends a download; null for a run. */
  readonly giveWay: AbortController | null;
}

interface WaitingRun {
  readonly environmentId: string;
  readonly grant: (place: ParquetPlace) => void;
}

export function createParquetPlaces(options: ParquetPlacesOptions): ParquetPlaces {
  /** Holders of places, oldest first. */
  const holders = new Set<Holder>();
  /** Runs that wait, oldest first. */
  const waiting = new Set<WaitingRun>();

  const holderOf = (environmentId: string) =>
    [...holders].find(holder => holder.environmentId === environmentId);
  const isFree = (environmentId: string) =>
    holders.size < options.total && holderOf(environmentId) === undefined;

  function take(environmentId: string, giveWay: AbortController | null): ParquetPlace {
    const holder = { environmentId, startedAt: performance.now(), giveWay };
    holders.add(holder);
    return {
      signal: (giveWay ?? new AbortController()).signal,
      release() {
        if (!holders.delete(holder)) return;
        const next = [...waiting].find(run => isFree(run.environmentId));
        if (next === undefined) return;
        waiting.delete(next);
        next.grant(take(next.environmentId, null));
      },
    };
  }

  /** Ends the oldest download whose time is over. Its place is returned at once. */
  function endLongDownload(candidates: Iterable<Holder>): void {
    for (const { startedAt, giveWay } of candidates) {
      if (giveWay === null || performance.now() - startedAt < options.shareMs) continue;
      giveWay.abort(new Error('Another export needs the place of this download.'));
      return;
    }
  }

  /** Waits until another conversion passes its place on to this run. */
  async function waitForPlace(environmentId: string, signal: AbortSignal): Promise<ParquetPlace> {
    const { promise, resolve, reject } = Promise.withResolvers<ParquetPlace>();
    const run = { environmentId, grant: resolve };
    // Leaves the queue at once, so that a place that is returned now goes to another run.
    const stop = (reason: unknown) => {
      waiting.delete(run);
      reject(reason);
    };
    const onAbort = () => stop(signal.reason);
    const makeRoom = () => {
      const own = holderOf(environmentId);
      endLongDownload(own === undefined ? holders : [own]);
    };
    const timer = setInterval(makeRoom, checkMs);
    const limit = setTimeout(() => stop(new NoParquetPlaceError()), options.waitMs);
    waiting.add(run);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      makeRoom();
      return await promise;
    } finally {
      signal.removeEventListener('abort', onAbort);
      clearInterval(timer);
      clearTimeout(limit);
    }
  }

  return {
    get taken() {
      return holders.size;
    },
    takeForDownload(environmentId) {
      if (holderOf(environmentId) === undefined && holders.size >= options.total)
        endLongDownload(holders);
      if (!isFree(environmentId)) {
        const detail = 'Too many Parquet files are in progress. Try again when one has ended.';
        const headers = { 'retry-after': retryAfterSeconds };
        throw new AppError('too_many_downloads', detail, { headers });
      }
      return take(environmentId, new AbortController());
    },
    async takeForRun(environmentId, signal) {
      signal.throwIfAborted();
      if (isFree(environmentId)) return take(environmentId, null);
      return await waitForPlace(environmentId, signal);
    },
  };
}
