/**
 * For numbers that many may ask for: one read at a time, its outcome kept for `keepMs`. Whoever asks waits no longer
 * than `patienceMs`.
 * @returns what gives the newest value, or null where the last read failed or takes too long
 */
export function readSeldom<T>(
  read: () => Promise<T>,
  { keepMs, patienceMs }: { readonly keepMs: number; readonly patienceMs: number },
): () => Promise<T | null> {
  let outcome: Promise<T | null> | null = null;
  let keptUntilMs = 0;

  const begin = () => {
    keptUntilMs = Number.POSITIVE_INFINITY;
    return read()
      .catch(() => null)
      .finally(() => {
        keptUntilMs = performance.now() + keepMs;
      });
  };

  return async () => {
    if (outcome === null || performance.now() > keptUntilMs) outcome = begin();
    let timer: NodeJS.Timeout | undefined;
    const tooLong = new Promise<null>(resolve => {
      timer = setTimeout(resolve, patienceMs, null);
    });
    try {
      return await Promise.race([outcome, tooLong]);
    } finally {
      clearTimeout(timer);
    }
  };
}
