import { uniform } from '../../demo/random.ts';

/** Choices from a seed. What happens when is up to the machine, so a seed repeats the choices of one loop, not a whole run. */
export interface Random {
  /** 0 ≤ number < 1 */
  next(): number;
  /** 0 ≤ integer < `below` */
  integer(below: number): number;
  chance(probability: number): boolean;
  /** @throws when there is nothing to choose from */
  pick<T>(items: readonly T[]): T;
  /** By weight. */
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
