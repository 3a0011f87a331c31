/**
 * Measures until a result is below the limit, and returns the lowest result. A busy machine slows
 * single tries down, and a fault of the service does so each time.
 *
 * @param measure may be called several times
 * @param limit limit of the test, in the unit of the results
 */
export async function lowestOf(
  maxTries: number,
  limit: number,
  measure: () => Promise<number>,
): Promise<number> {
  let lowest = Number.POSITIVE_INFINITY;
  for (let tries = 0; tries < maxTries && lowest >= limit; tries += 1) {
    lowest = Math.min(lowest, await measure());
  }
  return lowest;
}
