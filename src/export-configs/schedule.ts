import { DateTime } from 'luxon';
import { isoDate } from '../shared/iso-date.ts';

/** Computes the slots of schedules. A slot is a 00:00 UTC. */

export const schedules = ['daily', 'weekly'] as const;
export type Schedule = (typeof schedules)[number];

/** Missed slots that run after an outage: only the newest, or all of them in order. */
export const catchUps = ['newest', 'all'] as const;
export type CatchUp = (typeof catchUps)[number];

/** Missed slots older than this many days before the newest slot are never run. */
export const catchUpDays = 31;

/** Returns the newest slot that is not after `instant`. Weekly slots are Mondays. */
export function newestSlot(schedule: Schedule, instant: Date): Date {
  return startOf(schedule, instant).toJSDate();
}

/** Returns the first slot after `instant`. */
export function nextSlot(schedule: Schedule, instant: Date): Date {
  return startOf(schedule, instant)
    .plus(schedule === 'daily' ? { days: 1 } : { weeks: 1 })
    .toJSDate();
}

/**
 * Returns the day that ends at the slot, `YYYY-MM-DD`. The run of the slot exports its snapshot.
 */
export function snapshotDateOf(slot: Date): string {
  return isoDate(DateTime.fromJSDate(slot, { zone: 'utc' }).minus({ days: 1 }));
}

function startOf(schedule: Schedule, instant: Date): DateTime {
  // Luxon's weeks begin on Monday, as in ISO 8601.
  return DateTime.fromJSDate(instant, { zone: 'utc' }).startOf(
    schedule === 'daily' ? 'day' : 'week',
  );
}
