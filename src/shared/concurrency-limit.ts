import { AppError } from './errors.ts';

/**
 * Limits how many long requests of one kind this process serves at once, in total and for each
 * environment. One environment can therefore never take the whole process.
 */
export interface ConcurrencyLimit {
  /**
   * Admits one request.
   *
   * @returns a function that releases the place; further calls have no effect
   * @throws AppError with the code of the limit and `Retry-After`, if either limit is reached
   */
  acquire(environmentId: string): () => void;
  /** Number of requests admitted and not yet released. */
  readonly active: number;
}

export interface ConcurrencyLimitOptions {
  readonly total: number;
  readonly perEnvironment: number;
  readonly code: 'too_many_downloads' | 'rate_limited';
  /** Plural noun for the error message, such as `downloads`. */
  readonly what: string;
}

const retryAfterSeconds = '5';

export function createConcurrencyLimit(options: ConcurrencyLimitOptions): ConcurrencyLimit {
  const activeByEnvironment = new Map<string, number>();
  let active = 0;
  return {
    get active() {
      return active;
    },
    acquire(environmentId) {
      const own = activeByEnvironment.get(environmentId) ?? 0;
      if (active >= options.total || own >= options.perEnvironment) {
        const detail = `Too many ${options.what} are in progress. Try again when one has ended.`;
        throw new AppError(options.code, detail, { headers: { 'retry-after': retryAfterSeconds } });
      }
      active += 1;
      activeByEnvironment.set(environmentId, own + 1);
      let released = false;
      return () => {
        if (released) return;
        released = true;
        active -= 1;
        const left = (activeByEnvironment.get(environmentId) ?? 1) - 1;
        if (left === 0) activeByEnvironment.delete(environmentId);
        else activeByEnvironment.set(environmentId, left);
      };
    },
  };
}
