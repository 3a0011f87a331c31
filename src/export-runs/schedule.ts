import { DateTime } from 'luxon';

/** When exports run: pure rules from (schedule, instant) to instants. A slot is a 00:00 UTC. */

export const schedules = ['daily', 'weekly'] as const;
export type Schedule = (typeof schedules)[number];

/** The newest slot that is not after `instant`. Weekly slots are Mondays. */
export function newestSlot(schedule: Schedule, instant: Date): Date {
  return startOf(schedule, instant).toJSDate();
}

/** The first slot after `instant`. */
export function nextSlot(schedule: Schedule, instant: Date): Date {
  return startOf(schedule, instant)
    .plus(schedule === 'daily' ? { days: 1 } : { weeks: 1 })
    .toJSDate();
}

/** The day that ends with the slot, `YYYY-MM-DD`: its snapshot is what the slot's run exports. */
export function snapshotDateOf(slot: Date): string {
  return DateTime.fromJSDate(slot, { zone: 'utc' }).minus({ days: 1 }).toFormat('yyyy-MM-dd');
}

function startOf(schedule: Schedule, instant: Date): DateTime {
  // Luxon's weeks begin on Monday, as ISO 8601 has them.
  return DateTime.fromJSDate(instant, { zone: 'utc' }).startOf(
    schedule === 'daily' ? 'day' : 'week',
  );
}
