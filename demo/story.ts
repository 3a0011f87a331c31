export const dayMs = 86_400_000;

/** Size and start of the generated data. Equal stories give equal bytes. */
export interface Story {
  readonly seed: number;
  readonly companies: number;
  readonly features: number;
  /** First day, `YYYY-MM-DD`. */
  readonly startDate: string;
  readonly days: number;
}

/**
 * Returns the story of the `days` days before the day of `now`. A snapshot of today at `now` is
 * added.
 */
export function storyUpTo(now: Date, size: Omit<Story, 'startDate'>): Story {
  return { ...size, startDate: utcDate(startOfDay(now.getTime()) - size.days * dayMs) };
}

/**
 * Returns the dates of all snapshots, oldest first: the `days` closed days and the day after them.
 */
export function snapshotDates(story: Story): string[] {
  const start = Date.parse(story.startDate);
  return Array.from({ length: story.days + 1 }, (_, day) => utcDate(start + day * dayMs));
}

/**
 * Returns the instant of a snapshot: the last millisecond of its day, or `now` if the day is not
 * over.
 */
export function snapshotInstant(date: string, now: Date): number {
  return Math.min(Date.parse(date) + dayMs - 1, now.getTime());
}

function startOfDay(instant: number): number {
  return Math.floor(instant / dayMs) * dayMs;
}

function utcDate(instant: number): string {
  return new Date(instant).toISOString().slice(0, 10);
}
