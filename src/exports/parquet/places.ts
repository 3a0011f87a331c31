import { AppError } from '../../shared/errors.ts';

/**
 * Limits how many files this process converts to Parquet at once. Each conversion takes up to one
 * core and its own heap.
 */
export interface ParquetPlaces {
  /**
   * Takes a place for a download.
   * @throws AppError `too_many_downloads` if all places are taken, if the environment has one
   * already, or if a run waits
   */
  takeForDownload(environmentId: string): ParquetPlace;
  /**
   * Waits for a place for a run.
   * @throws the reason of the signal
   */
  takeForRun(signal: AbortSignal): Promise<ParquetPlace>;
  /** Number of places that are taken. */
  readonly taken: number;
}

export interface ParquetPlace {
  /** Aborts when a run needs the place of this download. */
  readonly signal: AbortSignal;
  /** Returns the place; further calls have no effect. */
  release(): void;
}

export const conversionsAtOnce = 2;

/** Time after which a download gives its place to a waiting run, because its reader may be slow. */
const downloadShareMs = 5 * 60_000;
const checkMs = 1_000;
const retryAfterSeconds = '5';

interface Download {
  readonly environmentId: string;
  readonly startedAt: number;
  readonly giveWay: AbortController;
}

export function createParquetPlaces(shareMs = downloadShareMs): ParquetPlaces {
  /** Downloads with a place, oldest first. */
  const downloads = new Set<Download>();
  /** Runs that wait, oldest first. */
  const waiting = new Set<() => void>();
  let taken = 0;

  function place(signal: AbortSignal, onRelease: () => void): ParquetPlace {
    let isReleased = false;
    return {
      signal,
      release() {
        if (isReleased) return;
        isReleased = true;
        onRelease();
        const [next] = waiting;
        if (next === undefined) taken -= 1;
        else next();
      },
    };
  }

  function endOldestDownload(): void {
    const [oldest] = downloads;
    if (oldest === undefined || performance.now() - oldest.startedAt < shareMs) return;
    oldest.giveWay.abort(new Error('An automatic export needs the place of this download.'));
  }

  return {
    get taken() {
      return taken;
    },
    takeForDownload(environmentId) {
      const hasOne = [...downloads].some(download => download.environmentId === environmentId);
      if (hasOne || taken >= conversionsAtOnce || waiting.size > 0) {
        const detail = 'Too many Parquet files are in progress. Try again when one has ended.';
        const headers = { 'retry-after': retryAfterSeconds };
        throw new AppError('too_many_downloads', detail, { headers });
      }
      const startedAt = performance.now();
      const download = { environmentId, startedAt, giveWay: new AbortController() };
      taken += 1;
      downloads.add(download);
      return place(download.giveWay.signal, () => downloads.delete(download));
    },
    async takeForRun(signal) {
      signal.throwIfAborted();
      if (taken < conversionsAtOnce) taken += 1;
      else await waitForTurn(signal);
      return place(new AbortController().signal, () => {});
    },
  };

  /** Resolves when a released place was passed on. */
  async function waitForTurn(signal: AbortSignal): Promise<void> {
    const turn = Promise.withResolvers<void>();
    const onTurn = () => {
      // Leaves the queue at once, so that the next place goes to the next run.
      waiting.delete(onTurn);
      turn.resolve();
    };
    const onAbort = () => {
      waiting.delete(onTurn);
      turn.reject(signal.reason);
    };
    const timer = setInterval(endOldestDownload, checkMs);
    waiting.add(onTurn);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      endOldestDownload();
      await turn.promise;
    } finally {
      signal.removeEventListener('abort', onAbort);
      clearInterval(timer);
    }
  }
}
