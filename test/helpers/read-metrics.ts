/**
 * Returns the value of every series of a scrape. Keys have the form `name{label="value",…}` of the
 * scrape.
 */
export function readMetrics(text: string): Map<string, number> {
  return new Map(
    text
      .split('\n')
      .filter(line => line !== '' && !line.startsWith('#'))
      .map(line => {
        const [, series = '', value = ''] = /^(.*) (\S+)$/.exec(line) ?? [];
        return [series, Number(value)] as const;
      }),
  );
}

/**
 * Returns how much each series has grown. A new series starts at 0.
 *
 * @returns a function from a series to its growth
 */
export function difference(
  before: ReadonlyMap<string, number>,
  after: ReadonlyMap<string, number>,
) {
  return (series: string) => {
    const now = after.get(series);
    if (now === undefined) throw new Error(`There is no ${series}`);
    return now - (before.get(series) ?? 0);
  };
}
