import t from 'tap';
import {
  newestSlot,
  nextSlot,
  type Schedule,
  snapshotDateOf,
} from '../../src/export-configs/schedule.ts';

/**
 * Name, schedule, instant, newest slot, date of the exported snapshot, next slot. 2026-03-02 is a
 * Monday.
 */
const table: readonly (readonly [string, Schedule, string, string, string, string])[] = [
  ['midday', 'daily', '2026-03-04T12:00:00.000Z', '2026-03-04', '2026-03-03', '2026-03-05'],
  [
    'midnight itself',
    'daily',
    '2026-03-04T00:00:00.000Z',
    '2026-03-04',
    '2026-03-03',
    '2026-03-05',
  ],
  [
    'just before midnight',
    'daily',
    '2026-03-03T23:59:59.999Z',
    '2026-03-03',
    '2026-03-02',
    '2026-03-04',
  ],
  [
    'just after midnight',
    'daily',
    '2026-03-04T00:00:00.001Z',
    '2026-03-04',
    '2026-03-03',
    '2026-03-05',
  ],
  ['year end', 'daily', '2025-12-31T23:59:59.999Z', '2025-12-31', '2025-12-30', '2026-01-01'],
  ['new year', 'daily', '2026-01-01T00:00:00.000Z', '2026-01-01', '2025-12-31', '2026-01-02'],
  [
    'before a leap day',
    'daily',
    '2028-02-28T10:00:00.000Z',
    '2028-02-28',
    '2028-02-27',
    '2028-02-29',
  ],
  ['a leap day', 'daily', '2028-02-29T10:00:00.000Z', '2028-02-29', '2028-02-28', '2028-03-01'],
  [
    'after a leap day',
    'daily',
    '2028-03-01T00:00:00.000Z',
    '2028-03-01',
    '2028-02-29',
    '2028-03-02',
  ],
  [
    'clocks go forward in Europe',
    'daily',
    '2026-03-29T03:30:00.000Z',
    '2026-03-29',
    '2026-03-28',
    '2026-03-30',
  ],
  [
    'Monday midnight',
    'weekly',
    '2026-03-02T00:00:00.000Z',
    '2026-03-02',
    '2026-03-01',
    '2026-03-09',
  ],
  [
    'late on Sunday',
    'weekly',
    '2026-03-01T23:59:59.999Z',
    '2026-02-23',
    '2026-02-22',
    '2026-03-02',
  ],
  ['midweek', 'weekly', '2026-03-05T17:00:00.000Z', '2026-03-02', '2026-03-01', '2026-03-09'],
  [
    'a week over the year end',
    'weekly',
    '2026-01-01T12:00:00.000Z',
    '2025-12-29',
    '2025-12-28',
    '2026-01-05',
  ],
  [
    'a year that begins on Monday',
    'weekly',
    '2029-01-01T00:00:00.000Z',
    '2029-01-01',
    '2028-12-31',
    '2029-01-08',
  ],
  [
    'a week over a leap day',
    'weekly',
    '2028-03-02T00:00:00.000Z',
    '2028-02-28',
    '2028-02-27',
    '2028-03-06',
  ],
];

for (const [name, schedule, instant, newest, snapshotDate, next] of table) {
  t.test(`finds the newest and the next slot of a ${schedule} schedule: ${name}`, async t => {
    const slot = newestSlot(schedule, new Date(instant));
    t.equal(slot.toISOString(), `${newest}T00:00:00.000Z`);
    t.equal(snapshotDateOf(slot), snapshotDate);
    t.equal(nextSlot(schedule, new Date(instant)).toISOString(), `${next}T00:00:00.000Z`);
  });
}

t.test('returns slots in ascending order, each the newest at its own instant', async t => {
  for (const schedule of ['daily', 'weekly'] as const) {
    let slot = newestSlot(schedule, new Date('2027-06-01T12:00:00Z'));
    for (let count = 0; count < 800; count += 1) {
      const next = nextSlot(schedule, slot);
      const days = (next.getTime() - slot.getTime()) / 86_400_000;
      if (
        days !== (schedule === 'daily' ? 1 : 7) ||
        newestSlot(schedule, next).getTime() !== next.getTime()
      ) {
        t.fail(`after ${slot.toISOString()} came ${next.toISOString()}`);
      }
      slot = next;
    }
  }
  t.pass('checked 800 slots of each schedule');
});
