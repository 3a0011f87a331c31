import { DateTime } from 'luxon';

/**
 * Decides which snapshots exports can still show. The manual exports (exports/aggregations.ts) show
 * the newest one, the last 30 days, and the newest of each week for 6 months. One more day and one
 * more week are kept for files that are written while the date changes.
 */

/**
 * Returns true if exports can still show the snapshot of `date`.
 * @param today current UTC date, `YYYY-MM-DD`
 * @param next date of the environment's next newer snapshot; null if there is none
 */
export function isNeeded(today: string, date: string, next: string | null): boolean {
  if (next === null || next > today || date >= firstDayNeeded(today)) return true;
  const day = utcDay(date);
  const sunday = day.plus({ days: 7 - day.weekday });
  return next > isoDate(sunday) && sunday >= utcDay(today).minus({ months: 6 }).minus({ weeks: 1 });
}

/** Returns the first day from which all snapshots are needed. */
export function firstDayNeeded(today: string): string {
  return isoDate(utcDay(today).minus({ days: 31 }));
}

function utcDay(date: string): DateTime {
  return DateTime.fromISO(date, { zone: 'utc' });
}

function isoDate(day: DateTime): string {
  return day.toFormat('yyyy-MM-dd');
}
