import { AppError } from '../shared/errors.ts';

export interface RateOptions {
  readonly minBytesPerSecond: number;
  /** Longest pause of the sender, and time over which the rate is averaged, in milliseconds. */
  readonly averageMs: number;
  /** Ends the wait for the next chunk with its reason. */
  readonly signal: AbortSignal;
}

/**
 * Passes a body through while it arrives fast enough. The sender has a credit of `averageMs`:
 * waiting for it consumes the credit, and bytes renew it. Time in which the reader is busy does not
 * count.
 *
 * @throws AppError `request_timeout`, or the reason of `signal`
 */
export async function* requireRate(
  body: AsyncIterable<Buffer>,
  { minBytesPerSecond, averageMs, signal }: RateOptions,
): AsyncGenerator<Buffer> {
  const chunks = body[Symbol.asyncIterator]();
  let creditMs = averageMs;
  for (;;) {
    const startedAt = performance.now();
    const next = await within(chunks.next(), creditMs, signal);
    if (next.done === true) return;
    const waitedMs = performance.now() - startedAt;
    const renewedMs = (next.value.length / minBytesPerSecond) * 1000;
    creditMs = Math.min(averageMs, Math.max(0, creditMs - waitedMs) + renewedMs);
    yield next.value;
  }
}

function within<T>(result: Promise<T>, ms: number, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', abort);
    };
    const abort = () => {
      end();
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      end();
      reject(new AppError('request_timeout', 'The body arrives too slowly.'));
    }, ms);
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort);
    result.finally(end).then(resolve, reject);
  });
}
