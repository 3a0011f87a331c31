/**
 * True in `npm run test:faults`, which runs the full number of tries. Otherwise tests run a few, to
 * be quick.
 */
export const isFullScale = process.env['TEST_SCALE'] === 'full';

/**
 * Returns the number of tries. @param few number in the quick mode, by default a twentieth of
 * `full`
 */
export function scaled(full: number, few = Math.ceil(full / 20)): number {
  return isFullScale ? full : few;
}
