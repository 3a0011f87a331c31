import pLimit, { type LimitFunction } from 'p-limit';
import { AppError } from '../../shared/errors.ts';

/**
 * Limits the short requests of one group, such as an environment, that this process handles at
 * once. Further ones wait in order. A burst of one customer therefore leaves database connections
 * for others. Downloads and ingests have limits of their own.
 */
export interface RequestTurns {
  /**
   * Does the work of a request when it is its turn.
   * @throws AppError `rate_limited` if too many requests of the group wait, or for too long
   */
  run<T>(group: string, work: () => Promise<T>): Promise<T>;
}

export interface RequestTurnsOptions {
  /** Maximum number of requests of a group that are handled at once. */
  readonly perGroup: number;
  /** Maximum number of requests of a group that wait. */
  readonly waiting: number;
  /** Longest wait in ms. A request that waited longer is refused when its turn comes. */
  readonly waitMs: number;
  /** Monotonic clock in milliseconds. */
  readonly now: () => number;
}

const retryAfterSeconds = '1';

export function createRequestTurns(options: RequestTurnsOptions): RequestTurns {
  const queues = new Map<string, LimitFunction>();
  return {
    async run(group, work) {
      const queue = queues.get(group) ?? pLimit(options.perGroup);
      if (queue.pendingCount >= options.waiting) throw tooManyRequests();
      queues.set(group, queue);
      const askedAt = options.now();
      try {
        return await queue(async () => {
          if (options.now() - askedAt > options.waitMs) throw tooManyRequests();
          return await work();
        });
      } finally {
        if (queue.activeCount + queue.pendingCount === 0) queues.delete(group);
      }
    },
  };
}

function tooManyRequests(): AppError {
  const detail =
    'Too many requests of this caller or environment are in progress. Try again later.';
  return new AppError('rate_limited', detail, { headers: { 'retry-after': retryAfterSeconds } });
}
