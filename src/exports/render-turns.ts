/**
 * Downloads whose parts have to be rendered take turns. COPYs on all cores of a machine hold up everything else there: small
 * requests then take up to hundreds of milliseconds (docs/performance.md).
 */
export interface RenderTurns {
  /** How many wait for their turn. */
  readonly waiting: number;
  /**
   * The rows as they come, begun when it is their turn or they have waited for long. A reader who is slower than the
   * database does not keep the turn.
   * @throws the signal's reason when that aborts the wait
   */
  inTurn(rows: () => AsyncGenerator<Buffer>, signal: AbortSignal): AsyncGenerator<Buffer>;
}

export interface RenderTurnOptions {
  readonly atOnce: number;
  /** Then it is begun all the same: a caller who sees no byte for long may take the connection for dead. */
  readonly longestWaitMs?: number;
}

const lookMs = 250;
/** Of the time, spent with the reader rather than with the database. */
const shareOfSlowReaders = 0.75;

export function createRenderTurns({
  atOnce,
  longestWaitMs = 20_000,
}: RenderTurnOptions): RenderTurns {
  let taken = 0;
  /** In the order in which they came. */
  const waiting = new Set<() => void>();
  const startNext = () => {
    const [start] = waiting;
    if (taken < atOnce) start?.();
  };

  /** @returns how to end the turn; safe to call again */
  async function take(signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    await new Promise<void>((resolve, reject) => {
      const leave = () => {
        waiting.delete(start);
        clearTimeout(late);
        signal.removeEventListener('abort', giveUp);
      };
      const start = () => {
        leave();
        taken += 1;
        resolve();
      };
      const giveUp = () => {
        leave();
        reject(signal.reason);
      };
      const late = setTimeout(start, longestWaitMs);
      signal.addEventListener('abort', giveUp);
      waiting.add(start);
      startNext();
    });
    let hasEnded = false;
    return () => {
      if (hasEnded) return;
      hasEnded = true;
      taken -= 1;
      startNext();
    };
  }

  return {
    get waiting() {
      return waiting.size;
    },
    async *inTurn(rows, signal) {
      const end = await take(signal);
      let readersMs = 0;
      let readerSince: number | null = null;
      const tally = () => {
        if (readerSince === null) return;
        const now = performance.now();
        readersMs += now - readerSince;
        readerSince = now;
      };
      const look = setInterval(() => {
        tally();
        if (readersMs > lookMs * shareOfSlowReaders) end();
        readersMs = 0;
      }, lookMs);
      try {
        for await (const piece of rows()) {
          readerSince = performance.now();
          yield piece;
          tally();
          readerSince = null;
        }
      } finally {
        clearInterval(look);
        end();
      }
    },
  };
}
