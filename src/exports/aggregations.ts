import { DateTime } from 'luxon';
import { isoDate } from '../shared/iso-date.ts';

/**
 * Defines the four manual exports: the dates of a file, and the days from which each date may take
 * its snapshot.
 */

export const aggregationTitles = {
  today: 'Today',
  '30-days-daily': 'Last 30 days, daily',
  '3-months-weekly': 'Last 3 months, weekly',
  '6-months-weekly': 'Last 6 months, weekly',
} as const;
export type Aggregation = keyof typeof aggregationTitles;
export const aggregations = Object.keys(aggregationTitles) as readonly Aggregation[];

/**
 * Value of the Date column. It shows the newest snapshot of the days `from` to `date`, both
 * inclusive.
 */
export interface ShownDate {
  readonly date: string;
  /** Earliest day of the snapshot; null for no limit. */
  readonly from: string | null;
}

/**
 * Returns the dates of a file, oldest first.
 * @param today current UTC date, `YYYY-MM-DD`
 */
export function shownDates(aggregation: Aggregation, today: string): ShownDate[] {
  const day = DateTime.fromISO(today, { zone: 'utc' });
  switch (aggregation) {
    case 'today':
      return [{ date: today, from: null }];
    case '30-days-daily':
      return Array.from({ length: 30 }, (_, index) =>
        onlyThatDay(isoDate(day.minus({ days: 30 - index }))),
      );
    case '3-months-weekly':
      return sundays(day.minus({ months: 3 }), day);
    case '6-months-weekly':
      return sundays(day.minus({ months: 6 }), day);
  }
}

/** Returns a date that shows only the snapshot of that day. */
export function onlyThatDay(date: string): ShownDate {
  return { date, from: date };
}

/**
 * Returns the Sundays from `start` up to but not including `end`, each with its week from Monday.
 */
function sundays(start: DateTime, end: DateTime): ShownDate[] {
  const dates: ShownDate[] = [];
  for (
    let sunday = start.plus({ days: 7 - start.weekday });
    sunday < end;
    sunday = sunday.plus({ days: 7 })
  ) {
    dates.push({ date: isoDate(sunday), from: isoDate(sunday.minus({ days: 6 })) });
  }
  return dates;
}
