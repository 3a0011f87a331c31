/**
 * Maps items in order and prepares up to `ahead` results in advance. Before it ends it waits for
 * unfinished results, also if the reader stops early.
 */
export async function* mapAhead<Item, Result>(
  source: AsyncIterable<Item> | Iterable<Item>,
  ahead: number,
  map: (item: Item) => Promise<Result>,
): AsyncGenerator<Result> {
  const pending: Promise<Result>[] = [];
  try {
    for await (const item of source) {
      const result = map(item);
      // Errors are thrown in order. Until then they must not count as unhandled.
      result.catch(() => {});
      pending.push(result);
      if (pending.length > ahead) yield await (pending.shift() as Promise<Result>);
    }
    while (pending.length > 0) yield await (pending.shift() as Promise<Result>);
  } finally {
    await Promise.allSettled(pending);
  }
}
