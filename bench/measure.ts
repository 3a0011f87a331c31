/** One of several pieces of work whose times are compared. */
export interface Contender {
  readonly name: string;
  /** Restores the initial state. This time is not measured. */
  readonly prepare?: () => Promise<void>;
  /**
   * Does the work.
   *
   * @returns seconds
   */
  readonly run: () => Promise<number>;
  /** Limit of rounds for slow work. Default: the number of rounds of the others. */
  readonly maxRounds?: number;
}

export interface Times {
  readonly name: string;
  /** Times in the order of measurement. */
  readonly seconds: readonly number[];
  readonly median: number;
}

/**
 * Runs each contender once, then each again, and so on. A slow phase of the machine therefore slows
 * all of them down.
 */
export async function alternate(
  contenders: readonly Contender[],
  rounds: number,
): Promise<Map<string, Times>> {
  const seconds = new Map<string, number[]>(contenders.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round += 1) {
    for (const { name, prepare, run, maxRounds = rounds } of contenders) {
      if (round >= maxRounds) continue;
      await prepare?.();
      const taken = await run();
      seconds.get(name)?.push(taken);
      console.error(`  ${round + 1}/${rounds}  ${taken.toFixed(3).padStart(8)} s  ${name}`);
    }
  }
  return new Map(
    [...seconds].map(([name, list]) => [name, { name, seconds: list, median: median(list) }]),
  );
}

export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** Returns a quantile, with linear interpolation between two values. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (sorted.length - 1) * share;
  const low = sorted[Math.floor(at)] ?? Number.NaN;
  const high = sorted[Math.ceil(at)] ?? Number.NaN;
  return low + (high - low) * (at - Math.floor(at));
}

/**
 * Measures a piece of work.
 *
 * @returns seconds
 */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return (performance.now() - startedAt) / 1000;
}
