import { setTimeout as delay } from 'node:timers/promises';
import { inspect } from 'node:util';

interface WaitOptions<T> {
  /** Returns true for an answer that ends the wait. Default: any truthy answer. */
  readonly isWanted?: (answer: T) => boolean;
  /** Default: 30 s, because a busy machine may be slow. */
  readonly limitMs?: number | undefined;
  /** True to ask again after an error. By default an error ends the wait. */
  readonly retriesErrors?: boolean;
}

/**
 * Calls `ask` until it returns a wanted answer. The pauses grow from 10 ms to 100 ms within the
 * first second, so that short waits end at once and long waits use little CPU time.
 *
 * @param what noun phrase for the error, such as `the end of the run`
 * @returns the wanted answer
 * @throws Error after the time limit, with the last answer, or with the last error as its cause
 */
export async function waitFor<T>(
  what: string,
  ask: () => T | Promise<T>,
  { isWanted = Boolean, limitMs = 30_000, retriesErrors = false }: WaitOptions<T> = {},
): Promise<T> {
  const startedAt = performance.now();
  while (true) {
    const last = await answerOf(ask).catch((cause: unknown) => {
      if (!retriesErrors) throw cause;
      return { cause };
    });
    if ('answer' in last && isWanted(last.answer)) return last.answer;
    const waitedMs = performance.now() - startedAt;
    if (waitedMs > limitMs) {
      const waited = `Waited ${limitMs} ms for ${what}`;
      throw 'answer' in last
        ? new Error(`${waited}, last answer: ${inspect(last.answer, { depth: 5 })}`)
        : new Error(`${waited}, last error: ${last.cause}`, last);
    }
    await delay(Math.min(10 + waitedMs / 10, 100));
  }
}

async function answerOf<T>(ask: () => T | Promise<T>): Promise<{ readonly answer: T }> {
  return { answer: await ask() };
}
