/** Streams that wait for a caller wait no longer than this without a byte moving. */
export const stallTimeoutMs = 60_000;

/** Passes chunks on; calls `onStall` when the source takes longer than `timeoutMs` to bring the next. */
export async function* limitSourceStall<T>(
  source: AsyncIterable<T>,
  timeoutMs: number,
  onStall: () => void,
): AsyncGenerator<T> {
  let timer = setTimeout(onStall, timeoutMs);
  try {
    for await (const chunk of source) {
      clearTimeout(timer);
      yield chunk;
      timer = setTimeout(onStall, timeoutMs);
    }
  } finally {
    clearTimeout(timer);
  }
}
