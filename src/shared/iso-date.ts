import type { DateTime } from 'luxon';

/** Returns the UTC date of an instant as `YYYY-MM-DD`. */
export function isoDate(instant: Date | DateTime): string {
  return new Date(instant.valueOf()).toISOString().slice(0, 10);
}
