import { DateTime } from 'luxon';

/**
 * Which snapshots can still be shown: a pure rule. The manual exports (exports/aggregations.ts) show the newest one, the
 * last 30 days, and the newest of each week for 6 months. A day and a week more are kept for files that are being written
 * while the day changes.
 */

/**
 * @param today the current UTC date, `YYYY-MM-DD`
 * @param next the date of the environment's next newer snapshot; null: there is none
 */
export function isNeeded(today: string, date: string, next: string | null): boolean {
  if (next === null || next > today) return true;
  const now = DateTime.fromISO(today, { zone: 'utc' });
  if (date >= isoDate(now.minus({ days: 31 }))) return true;
  const day = DateTime.fromISO(date, { zone: 'utc' });
  const sunday = isoDate(day.plus({ days: 7 - day.weekday }));
  return next > sunday && sunday >= isoDate(now.minus({ months: 6 }).minus({ weeks: 1 }));
}

/** Snapshots of this day and later ones are all needed. */
export function firstDayNeeded(today: string): string {
  return isoDate(DateTime.fromISO(today, { zone: 'utc' }).minus({ days: 31 }));
}

/**
 * @param dates of one environment's snapshots, in any order
 * @returns those to keep, oldest first
 */
export function neededDates(today: string, dates: readonly string[]): string[] {
  const sorted = dates.toSorted();
  return sorted.filter((date, index) => isNeeded(today, date, sorted[index + 1] ?? null));
}

function isoDate(day: DateTime): string {
  return day.toFormat('yyyy-MM-dd');
}
