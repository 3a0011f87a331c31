import { delay } from './delay.ts';
import { ApiError, type ApiProblem } from './errors.ts';

export interface RetryOptions {
  /** Number of calls, the first one included. Default 5. */
  readonly attempts?: number;
  /** Problems after which a new attempt makes sense. Default: `busyCodes`. */
  readonly codes?: readonly ApiProblem['code'][];
  /** Longest wait before an attempt in seconds. Default 60. */
  readonly maxWaitSeconds?: number;
  readonly signal?: AbortSignal;
  /** Called before each wait. */
  readonly onRetry?: (error: ApiError, waitSeconds: number) => void;
}

/**
 * Problems that pass: too many requests, an overloaded or restarting service, a lost connection.
 */
export const busyCodes = [
  ...(['rate_limited', 'too_many_downloads', 'unavailable', 'no_answer'] as const),
];

/**
 * Calls `action` until it succeeds. Waits as long as `Retry-After` says. Without that header, the
 * wait is 1 s and doubles with each attempt.
 *
 * @throws {ApiError} of the last attempt
 */
export async function retryWhenBusy<Result>(
  action: () => Promise<Result>,
  { attempts = 5, codes = busyCodes, maxWaitSeconds = 60, signal, onRetry }: RetryOptions = {},
): Promise<Result> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await action();
    } catch (error) {
      const isBusy = error instanceof ApiError && codes.includes(error.problem.code);
      if (!isBusy || attempt >= attempts) throw error;
      const wanted = error.retryAfterSeconds ?? 2 ** (attempt - 1);
      const waitSeconds = Math.min(wanted, maxWaitSeconds);
      onRetry?.(error, waitSeconds);
      await delay(waitSeconds * 1000, signal);
    }
  }
}
