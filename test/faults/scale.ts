/** True under `npm run test:faults`, which makes all tries. Otherwise tests make a few. */
export const isFullScale = process.env['TEST_SCALE'] === 'full';

/**
 * Returns the number of tries.
 * @param few number in the quick mode, by default a twentieth of `full`
 */
export function scaled(full: number, few = Math.ceil(full / 20)): number {
  return isFullScale ? full : few;
}
