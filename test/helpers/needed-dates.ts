import { isNeeded } from '../../src/retention/needed-dates.ts';

/**
 * Returns the dates to keep, oldest first.
 * @param dates dates of one environment's snapshots, in any order
 */
export function neededDates(today: string, dates: readonly string[]): string[] {
  const sorted = dates.toSorted();
  return sorted.filter((date, index) => isNeeded(today, date, sorted[index + 1] ?? null));
}
