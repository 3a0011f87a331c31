import { firstDayNeeded, lastDayToReplace } from '../../src/retention/needed-dates.ts';

/**
 * Returns the dates to keep, oldest first.
 * @param dates dates of one environment's snapshots, in any order
 */
export function neededDates(today: string, dates: readonly string[]): string[] {
  const sorted = dates.toSorted();
  return sorted.filter((date, index) => {
    const next = sorted[index + 1] ?? null;
    return next === null || date >= firstDayNeeded(today) || next > lastDayToReplace(today, date);
  });
}
