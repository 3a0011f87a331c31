import type { DateTime } from 'luxon';

/** Returns the UTC date of an instant as `YYYY-MM-DD`. */
export function isoDate(instant: Date | DateTime): string {
  return new Date(instant.valueOf()).toISOString().slice(0, 10);
}

/** Returns the second of an instant, in milliseconds since 1970. HTTP dates have no finer ones. */
export function secondOf(instant: Date): number {
  return Math.floor(instant.getTime() / 1000) * 1000;
}
