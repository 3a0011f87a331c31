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
  if (next === null || next > today) return true;
  const now = DateTime.fromISO(today, { zone: 'utc' });
  if (date >= isoDate(now.minus({ days: 31 }))) return true;
  const day = DateTime.fromISO(date, { zone: 'utc' });
  const sunday = isoDate(day.plus({ days: 7 - day.weekday }));
  return next > sunday && sunday >= isoDate(now.minus({ months: 6 }).minus({ weeks: 1 }));
}

/** Returns the first day from which all snapshots are needed. */
export function firstDayNeeded(today: string): string {
  return isoDate(DateTime.fromISO(today, { zone: 'utc' }).minus({ days: 31 }));
}

/**
 * Returns the dates to keep, oldest first.
 * @param dates dates of one environment's snapshots, in any order
 */
export function neededDates(today: string, dates: readonly string[]): string[] {
  const sorted = dates.toSorted();
  return sorted.filter((date, index) => isNeeded(today, date, sorted[index + 1] ?? null));
}

function isoDate(day: DateTime): string {
  return day.toFormat('yyyy-MM-dd');
}
