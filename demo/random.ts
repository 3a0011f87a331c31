/**
 * Returns a random number that depends only on its keys. Any company on any day can therefore be
 * computed alone. Mixes each key in turn with the 32-bit finaliser of MurmurHash3.
 *
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

/**
 * Returns a waiting time in the unit of `mean`. Most are short, a few are very long (exponential
 * distribution).
 */
export function exponential(mean: number, ...keys: readonly number[]): number {
  return -mean * Math.log(1 - uniform(...keys));
}

export function pick<T>(items: readonly [T, ...T[]], ...keys: readonly number[]): T {
  return items[Math.floor(uniform(...keys) * items.length)] ?? items[0];
}
