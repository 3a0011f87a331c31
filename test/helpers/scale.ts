/** True under `npm run test:faults`, which makes all tries. Otherwise tests make a few. */
export const isFullScale = process.env['TEST_SCALE'] === 'full';

/**
 * Seed of random tests. It changes with every run at full scale. The quick mode always makes the
 * same tries, so that a change fails only because of what it changes. `TEST_SEED` sets the seed.
 */
export const seed = Number(
  process.env['TEST_SEED'] ?? (isFullScale ? Math.trunc(Math.random() * 2 ** 31) : 1),
);

/**
 * Returns the number of tries.
 * @param few number in the quick mode, by default a twentieth of `full`
 */
export function scaled(full: number, few = Math.ceil(full / 20)): number {
  return isFullScale ? full : few;
}
