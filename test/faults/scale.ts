/** `npm run test:faults` tries the full number; a file that is run by itself tries a few, to be quick. */
export const isFullScale = process.env['TEST_SCALE'] === 'full';

/** How many of something to try. */
export function scaled(full: number): number {
  return isFullScale ? full : Math.ceil(full / 20);
}
