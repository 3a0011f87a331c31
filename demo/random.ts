/**
 * Randomness without a state: the number belongs to its keys, so any company on any day can be drawn alone and
 * comes out the same. The mixing is MurmurHash3's 32-bit finaliser over each key in turn.
 * @returns 0 ≤ number < 1
 */
export function uniform(...keys: readonly number[]): number {
  let hash = 0x9e3779b9;
  for (const key of keys) {
    hash = Math.imul(hash ^ key, 0x85ebca6b);
    hash ^= hash >>> 13;
    hash = Math.imul(hash, 0xc2b2ae35);
    hash ^= hash >>> 16;
  }
  return (hash >>> 0) / 0x1_0000_0000;
}

/** Waiting times as life has them: mostly short, sometimes very long. In the unit of `mean`. */
export function exponential(mean: number, ...keys: readonly number[]): number {
  return -mean * Math.log(1 - uniform(...keys));
}

export function pick<T>(items: readonly [T, ...T[]], ...keys: readonly number[]): T {
  return items[Math.floor(uniform(...keys) * items.length)] ?? items[0];
}
