import { DateTime } from 'luxon';
import { isoDate } from '../shared/iso-date.ts';

/**
 * Decides which snapshots exports can still show. The manual exports (exports/aggregations.ts) show
 * the newest one, the last 30 days, and the newest of each week for 6 months. One more day and one
 * more week are kept for files that are written while the date changes.
 */

/**
 * Returns the first day from which all snapshots are needed.
 * @param today current UTC date, `YYYY-MM-DD`
 */
export function firstDayNeeded(today: string): string {
  return isoDate(utcDay(today).minus({ days: 31 }));
}

/**
 * Returns the last day of the time in which a newer snapshot replaces an older one in all exports.
 * The older one is needed if its environment has no newer one up to and including that day.
 * @param date day of the older snapshot, before `firstDayNeeded`
 */
export function lastDayToReplace(today: string, date: string): string {
  const day = utcDay(date);
  const sunday = day.plus({ days: 7 - day.weekday });
  const firstSunday = utcDay(today).minus({ months: 6 }).minus({ weeks: 1 });
  return sunday >= firstSunday ? isoDate(sunday) : today;
}

function utcDay(date: string): DateTime {
  return DateTime.fromISO(date, { zone: 'utc' });
}
