import type { FastifyRateLimitStore, FastifyRateLimitStoreCtor } from '@fastify/rate-limit';

interface Window {
  readonly startedAtMs: number;
  count: number;
}

type Answer = Parameters<FastifyRateLimitStore['incr']>[1];

/**
 * Creates a store of counters for @fastify/rate-limit. A window starts with the first request of a
 * key. The built-in stores read the system clock; this one takes a clock. A clock that is set back
 * does not prolong a window.
 * @param maxKeys limit of keys; the least recently counted are dropped first
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

    /** Returns the current count without incrementing it. */
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
