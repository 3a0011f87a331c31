/**
 * Maps items in their order, with up to `ahead` results prepared before they are asked for.
 * Waits for results under way before it ends, also when the reader stops early.
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
      // A failure is thrown when its turn comes. Until then it must not count as unhandled.
      result.catch(() => {});
      pending.push(result);
      if (pending.length > ahead) yield await (pending.shift() as Promise<Result>);
    }
    while (pending.length > 0) yield await (pending.shift() as Promise<Result>);
  } finally {
    await Promise.allSettled(pending);
  }
}
