import type { FastifyRateLimitStore, FastifyRateLimitStoreCtor } from '@fastify/rate-limit';

interface Window {
  readonly startedAtMs: number;
  count: number;
}

type Answer = Parameters<FastifyRateLimitStore['incr']>[1];

/**
 * Counters for @fastify/rate-limit: how often a key came up in a window that begins with its first time. Unlike those it
 * brings, they go by a clock that is handed in, and one that is put back does not make a window longer.
 * @param maxKeys those not counted for longest are forgotten first
 */
export function createWindowStore(now: () => Date, maxKeys: number): FastifyRateLimitStoreCtor {
  return class WindowStore implements FastifyRateLimitStore {
    readonly #windows = new Map<string, Window>();

    incr(key: string, answer: Answer, windowMs: number): void {
      const nowMs = now().getTime();
      const window = this.#current(key, windowMs) ?? { startedAtMs: nowMs, count: 0 };
      window.count += 1;
      this.#windows.delete(key);
      this.#windows.set(key, window);
      const [oldest] = this.#windows.keys();
      if (this.#windows.size > maxKeys && oldest !== undefined) this.#windows.delete(oldest);
      answer(null, { current: window.count, ttl: window.startedAtMs + windowMs - nowMs });
    }

    /** The same without counting. */
    read(key: string, answer: Answer, windowMs: number): void {
      const window = this.#current(key, windowMs);
      const ttl = window === undefined ? 0 : window.startedAtMs + windowMs - now().getTime();
      answer(null, { current: window?.count ?? 0, ttl });
    }

    child(): FastifyRateLimitStore {
      return new WindowStore();
    }

    #current(key: string, windowMs: number): Window | undefined {
      const window = this.#windows.get(key);
      if (window === undefined) return undefined;
      const ageMs = now().getTime() - window.startedAtMs;
      return ageMs >= 0 && ageMs < windowMs ? window : undefined;
    }
  };
}
