/** Something that takes time, done the same way each time. */
export interface Contender {
  readonly name: string;
  /** Puts things into the state to start from; not measured. */
  readonly prepare?: () => Promise<void>;
  /** @returns the seconds it took */
  readonly run: () => Promise<number>;
  /** Fewer than the others, for what takes long. */
  readonly maxRounds?: number;
}

export interface Times {
  readonly name: string;
  /** In the order measured. */
  readonly seconds: readonly number[];
  readonly median: number;
}

/** All contenders once, then all again: what slows the machine down for a while slows all of them down. */
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

/** Between two values the one in proportion. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (sorted.length - 1) * share;
  const low = sorted[Math.floor(at)] ?? Number.NaN;
  const high = sorted[Math.ceil(at)] ?? Number.NaN;
  return low + (high - low) * (at - Math.floor(at));
}

/** @returns seconds */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return (performance.now() - startedAt) / 1000;
}
