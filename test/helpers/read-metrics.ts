/** Every series of a scrape, `name{label="value",…}` as it is written there, and its value. */
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

/** @returns by how much a series has grown; one that was not there counts from 0 */
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
