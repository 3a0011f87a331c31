/** `npm run test:faults` tries the full number; a file that is run by itself tries a few, to be quick. */
export const isFullScale = process.env['TEST_SCALE'] === 'full';

/** How many of something to try. @param few how many to be quick; default: a twentieth */
export function scaled(full: number, few = Math.ceil(full / 20)): number {
  return isFullScale ? full : few;
}
