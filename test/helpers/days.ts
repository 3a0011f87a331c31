/**
 * Returns the day that many days before another, both `YYYY-MM-DD`. A negative number gives a later
 * day.
 */
export function daysBefore(day: string, count: number): string {
  return new Date(Date.parse(day) - count * 24 * 60 * 60 * 1000).toISOString().slice(0, 10);
}
