interface TtlCacheOptions {
  /** Time in milliseconds for which an outcome is kept. */
  readonly ttlMs: number;
  /** Longest wait of one caller in milliseconds. */
  readonly timeoutMs: number;
}

/**
 * Shares the outcome of a read among all callers. At most one read runs at a time. No read starts
 * while the last outcome is younger than `ttlMs`. A failed read is kept like any other outcome.
 * @returns a function that resolves to the outcome, or to null if the read failed or takes too long
 */
export function cacheWithTtl<T>(
  read: () => Promise<T>,
  { ttlMs, timeoutMs }: TtlCacheOptions,
): () => Promise<T | null> {
  let outcome: Promise<T | null> | null = null;
  let keptUntilMs = 0;

  const begin = () => {
    keptUntilMs = Number.POSITIVE_INFINITY;
    return read()
      .catch(() => null)
      .finally(() => {
        keptUntilMs = performance.now() + ttlMs;
      });
  };

  return async () => {
    if (outcome === null || performance.now() > keptUntilMs) outcome = begin();
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<null>(resolve => {
      timer = setTimeout(resolve, timeoutMs, null);
    });
    try {
      return await Promise.race([outcome, timeout]);
    } finally {
      clearTimeout(timer);
    }
  };
}
