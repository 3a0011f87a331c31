import t from 'tap';
import {
  aggregations,
  onlyThatDay,
  type ShownDate,
  shownDates,
} from '../../src/exports/aggregations.ts';

const dayMs = 24 * 60 * 60 * 1000;
const iso = (time: number) => new Date(time).toISOString().slice(0, 10);

/** Returns the date `months` months before. Tries smaller days until the month has one. */
function monthsBefore(today: string, months: number): string {
  const [year, month, day] = today.split('-').map(Number) as [number, number, number];
  for (let tried = day; ; tried -= 1) {
    const time = Date.UTC(year, month - 1 - months, tried);
    if (new Date(time).getUTCDate() === tried) return iso(time);
  }
}

/** Returns the expected dates by testing every day against the definition of the aggregation. */
function expected(aggregation: string, today: string): ShownDate[] {
  if (aggregation === 'today') return [{ date: today, from: null }];
  const found: ShownDate[] = [];
  const now = Date.parse(today);
  const start = monthsBefore(today, aggregation === '3-months-weekly' ? 3 : 6);
  for (let time = now - 250 * dayMs; time < now; time += dayMs) {
    if (aggregation === '30-days-daily') {
      if (now - time <= 30 * dayMs) found.push({ date: iso(time), from: iso(time) });
    } else if (new Date(time).getUTCDay() === 0 && iso(time) >= start) {
      found.push({ date: iso(time), from: iso(time - 6 * dayMs) });
    }
  }
  return found;
}

t.test('computes the dates of every aggregation on every day of four years', async t => {
  const wrong: string[] = [];
  for (let time = Date.UTC(2024, 0, 1); time < Date.UTC(2028, 0, 1); time += dayMs) {
    for (const aggregation of aggregations) {
      const today = iso(time);
      const shown = JSON.stringify(shownDates(aggregation, today));
      if (shown !== JSON.stringify(expected(aggregation, today)))
        wrong.push(`${aggregation} on ${today}`);
    }
  }
  t.strictSame(wrong, []);
});

t.test('handles leap years at centuries: 2000 is one, 2100 is not', async t => {
  for (const today of ['2000-03-01', '2000-05-31', '2100-03-01', '2100-05-31', '2100-08-31']) {
    for (const aggregation of aggregations) {
      t.strictSame(
        shownDates(aggregation, today),
        expected(aggregation, today),
        `${aggregation} on ${today}`,
      );
    }
  }
});

/** Expected dates taken from a calendar. They also check the brute-force function above. */
const byHand: readonly [
  aggregation: string,
  today: string,
  first: string,
  last: string,
  count: number,
][] = [
  ['today', '2026-03-02', '2026-03-02', '2026-03-02', 1],
  ['30-days-daily', '2026-03-02', '2026-01-31', '2026-03-01', 30],
  ['30-days-daily', '2024-03-01', '2024-01-31', '2024-02-29', 30],
  ['30-days-daily', '2026-01-01', '2025-12-02', '2025-12-31', 30],
  // 2026-03-02 is a Monday: the day before is the last Sunday. Three months before is Tuesday, 2
  // December.
  ['3-months-weekly', '2026-03-02', '2025-12-07', '2026-03-01', 13],
  // The date itself does not belong to the dates before it, even if it is a Sunday.
  ['3-months-weekly', '2026-03-01', '2025-12-07', '2026-02-22', 12],
  // 31 May minus three months is 28 February 2026, a Saturday, and 29 February 2024, a Thursday.
  ['3-months-weekly', '2026-05-31', '2026-03-01', '2026-05-24', 13],
  ['3-months-weekly', '2024-05-31', '2024-03-03', '2024-05-26', 13],
  // Three months before Sunday, 30 May 2027 is Sunday, 28 February. Only clamping includes it.
  ['3-months-weekly', '2027-05-30', '2027-02-28', '2027-05-23', 13],
  // Six months before 31 August 2026 is 28 February. Before 29 August 2027 it is Sunday, 28
  // February.
  ['6-months-weekly', '2026-08-31', '2026-03-01', '2026-08-30', 27],
  ['6-months-weekly', '2027-08-29', '2027-02-28', '2027-08-22', 26],
  ['6-months-weekly', '2026-01-01', '2025-07-06', '2025-12-28', 26],
];

for (const [aggregation, today, first, last, count] of byHand) {
  t.test(`computes the dates of ${aggregation} on ${today}`, async t => {
    const dates = shownDates(aggregation as 'today', today).map(shown => shown.date);
    t.strictSame([dates[0], dates.at(-1), dates.length], [first, last, count]);
  });
}

t.test('shows one day under its date in a scheduled file', async t => {
  t.strictSame(onlyThatDay('2026-03-01'), { date: '2026-03-01', from: '2026-03-01' });
});
