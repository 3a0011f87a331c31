import fc from 'fast-check';
import { DateTime } from 'luxon';
import t from 'tap';
import { aggregations, type ShownDate, shownDates } from '../../src/exports/aggregations.ts';
import { neededDates } from '../helpers/needed-dates.ts';
import { seed } from '../helpers/scale.ts';

/** `2026-03-02` is a Monday. */
const cases: readonly [what: string, today: string, dates: string[], kept: string[]][] = [
  ['nothing', '2026-03-02', [], []],
  ['the newest date, of any age', '2026-03-02', ['2019-01-01', '2019-01-02'], ['2019-01-02']],
  [
    'today and the 31 days before',
    '2026-03-02',
    ['2026-01-27', '2026-01-28', '2026-01-29', '2026-01-30', '2026-03-01', '2026-03-02'],
    ['2026-01-30', '2026-03-01', '2026-03-02'],
  ],
  [
    'the newest date of a week, which ends on Sunday',
    '2026-03-02',
    ['2026-01-12', '2026-01-17', '2026-01-18', '2026-01-19', '2026-03-01'],
    ['2026-01-18', '2026-01-19', '2026-03-01'],
  ],
  [
    'a week that starts before the 31 days and has its newest date in them',
    '2026-03-02',
    ['2026-01-26', '2026-01-29', '2026-01-30', '2026-03-01'],
    ['2026-01-30', '2026-03-01'],
  ],
  [
    // 2 September is a Wednesday; a week earlier is 26 August, whose week ends on 30 August.
    'weeks that end at most 6 months and a week ago',
    '2026-03-02',
    ['2025-08-22', '2025-08-24', '2025-08-25', '2025-09-07', '2026-03-01'],
    ['2025-08-25', '2025-09-07', '2026-03-01'],
  ],
  [
    // 31 August minus 6 months is 28 February, a Saturday; a week earlier is the 21st.
    'months clamp',
    '2026-08-31',
    ['2026-02-15', '2026-02-16', '2026-03-01', '2026-08-30'],
    ['2026-02-16', '2026-03-01', '2026-08-30'],
  ],
  [
    'keeps the newest date up to today despite a date in the future',
    '2026-03-02',
    ['2019-01-01', '2019-01-02', '2026-03-03'],
    ['2019-01-02', '2026-03-03'],
  ],
];

t.test('keeps the needed dates in a table of examples', t => {
  for (const [what, today, dates, kept] of cases) {
    t.strictSame(neededDates(today, dates), kept, what);
    t.strictSame(
      neededDates(today, dates.toReversed()),
      kept,
      `${what}, with the dates in another order`,
    );
  }
  t.end();
});

const epoch = DateTime.fromISO('2023-06-01', { zone: 'utc' });
const days = Array.from({ length: 1_201 }, (_, index) =>
  epoch.plus({ days: index }).toFormat('yyyy-MM-dd'),
);
function dayAt(index: number): string {
  const day = days[index];
  if (day === undefined) throw new Error(`day ${index} is outside the range of the test`);
  return day;
}
/** Sets of dates. Some sets have every day, others only a few. */
const someDates = fc
  .tuple(
    fc.integer({ min: 1, max: 40 }),
    fc.uniqueArray(fc.integer({ min: 0, max: 800 }), { maxLength: 300 }),
  )
  .map(([every, indexes]) => indexes.filter(index => index % every === 0 || index % 97 === 0));

/**
 * Returns the dates that exports show: the newest of each range, as describe-export.ts reads them
 * from the registry.
 */
function shown(today: string, dates: readonly string[]): (string | null)[] {
  const sorted = dates.toSorted();
  return rangesOn(today).map(({ date, from }) => {
    const newest = sorted.findLast(candidate => candidate <= date);
    return newest === undefined || (from !== null && newest < from) ? null : newest;
  });
}

const rangesByDay = new Map<string, ShownDate[]>();

/** Returns the ranges of all exports of a day. Computes them once, because runs share days. */
function rangesOn(today: string): ShownDate[] {
  const ranges =
    rangesByDay.get(today) ?? aggregations.flatMap(aggregation => shownDates(aggregation, today));
  rangesByDay.set(today, ranges);
  return ranges;
}

t.test('keeps every date that an export shows today or later, after any ingest', async () => {
  await fc.assert(
    fc.property(
      someDates,
      fc.integer({ min: 300, max: 800 }),
      fc.integer({ min: 0, max: 400 }),
      fc.array(fc.integer({ min: 0, max: 1_200 }), { maxLength: 30 }),
      (indexes, now, later, loadedLater) => {
        const today = dayAt(now);
        const dates = indexes.filter(index => index <= now).map(dayAt);
        const kept = neededDates(today, dates);
        const fresh = loadedLater.filter(index => index <= now + later).map(dayAt);
        const then = dayAt(now + later);
        const without = shown(then, [...kept, ...fresh]);
        const withAll = shown(then, [...dates, ...fresh]);
        if (JSON.stringify(without) !== JSON.stringify(withAll))
          throw new Error(`${then}: ${withAll}`);
        // Two nightly runs give the result of one.
        const inTwoNights = neededDates(then, neededDates(today, dates));
        if (JSON.stringify(inTwoNights) !== JSON.stringify(neededDates(then, dates)))
          throw new Error(then);
      },
    ),
    { numRuns: 200, seed },
  );
});

t.test(
  'keeps only dates that an export shows within days, or later without an ingest',
  async () => {
    await fc.assert(
      fc.property(someDates, fc.integer({ min: 300, max: 800 }), (indexes, now) => {
        const dates = indexes.filter(index => index <= now).map(dayAt);
        const shownSome = new Set<string | null>();
        // Exports are checked over a range of days, from 10 days ago. Months differ by up to three
        // days: a week before the day 6 months ago may be the day 6 months before 10 days ago. All
        // of the last days of a month with 31 days can start 6 months at the same day.
        for (let at = now - 10; at <= now + 40; at += 1) {
          const today = dayAt(at);
          for (const date of shown(
            today,
            dates.filter(date => date <= today),
          ))
            shownSome.add(date);
        }
        const idle = neededDates(dayAt(now), dates).filter(date => !shownSome.has(date));
        if (idle.length > 0)
          throw new Error(`kept on ${dayAt(now)} although no export shows it: ${idle}`);
      }),
      // 2024-06-03 minus 6 months and a week is 2023-11-26. That is also 2024-05-26 minus 6 months,
      // which is eight days earlier.
      { numRuns: 100, seed, examples: [[[172, 179], 368]] },
    );
  },
);
