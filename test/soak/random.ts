import { uniform } from '../../demo/random.ts';

/**
 * Random choices from a seed. A seed repeats the choices of one loop, but not the timing of a whole
 * run.
 */
export interface Random {
  /** 0 ≤ number < 1 */
  next(): number;
  /** 0 ≤ integer < `below` */
  integer(below: number): number;
  chance(probability: number): boolean;
  /** @throws if `items` is empty */
  pick<T>(items: readonly T[]): T;
  /**
   * Picks an item with a probability in proportion to its weight.
   * @throws if `items` is empty
   */
  pickWeighted<T>(items: readonly (readonly [weight: number, item: T])[]): T;
}

export function createRandom(seed: number, stream: number): Random {
  let drawn = 0;
  const next = () => uniform(seed, stream, drawn++);
  const integer = (below: number) => Math.floor(next() * below);
  return {
    next,
    integer,
    chance: probability => next() < probability,
    pick: items => {
      const [item] = items.slice(integer(items.length));
      if (item === undefined) throw new Error('nothing to choose from');
      return item;
    },
    pickWeighted: items => {
      let left = next() * items.reduce((sum, [weight]) => sum + weight, 0);
      const found = items.find(([weight]) => {
        left -= weight;
        return left < 0;
      });
      if (found === undefined) throw new Error('nothing to choose from');
      return found[1];
    },
  };
}
