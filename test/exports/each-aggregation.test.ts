import { gunzipSync } from 'node:zlib';
import fc from 'fast-check';
import t from 'tap';
import {
  type AdoptionRow,
  adoptionRow,
  exportHeader,
  exportPart,
  ingestBody,
} from '../helpers/adoption-rows.ts';
import { startTestApp } from '../helpers/app.ts';
import { parseCsv, parseWithPackage } from '../helpers/csv-reader.ts';
import { seed } from '../helpers/scale.ts';

const dayMs = 24 * 60 * 60 * 1000;
const iso = (time: number) => new Date(time).toISOString().slice(0, 10);
const lastDay = Date.parse('2026-03-08');
const firstDay = Date.parse('2025-08-20');

const app = await startTestApp(t, { now: '2026-03-08T12:00:00.000Z' });
await app.putEnvironment('acme', 'pro');
// The rows of this environment are in the same partitions and must never be shown.
await app.putEnvironment('other', 'pro');

/** Ids that a locale or UTF-16 would sort in another order. */
const ids = [
  'Z',
  'a',
  'é',
  '10',
  '9',
  'A',
  'ab',
  'a b',
  'a-b',
  '😀',
  '\ufffd',
  'e\u0301',
  'ß',
  '_',
  '"',
  'ä,',
];

function rowsOf(date: string, version: number): AdoptionRow[] {
  const seed = Date.parse(date) / dayMs + version;
  return ids
    .filter((_, index) => (index * 7 + seed) % 3 !== 0)
    .flatMap((companyId, index) =>
      ['f10', 'f9', 'F'].slice(0, 1 + (index % 3)).map(featureId =>
        adoptionRow({
          companyId,
          companyName: index % 4 === 0 ? null : `${companyId} on ${date}, version ${version}`,
          featureId,
          firstSeen: `${date}T00:00:00.${String(seed % 1000).padStart(3, '0')}Z`,
          lastUsed: index % 2 === 0 ? `${date}T23:59:59.999Z` : null,
          starsState: (1 + (index % 4)) as 1,
          frequency: (index % 4) as 1,
          satisfaction: index % 6 === 0 ? null : ((index % 6) as 1),
          feedbackCount: seed * index,
          segmentNames: index % 5 === 0 ? [] : ['All', `Of "${companyId}"`],
          segmentIds: index % 5 === 0 ? [] : ['s1', `s${index}`],
        }),
      ),
    );
}

/** Expected snapshots: dates with gaps of days and of whole weeks, some ingested more than once. */
const held = new Map<string, AdoptionRow[]>();

async function ingest(date: string, rows: AdoptionRow[]): Promise<void> {
  const answer = await app.ingest('acme', date, ingestBody(rows));
  if (answer.status !== (held.has(date) ? 200 : 201)) throw new Error(answer.text);
  held.set(date, rows);
}

let day = 0;
for (let time = firstDay; time <= lastDay; time += dayMs) {
  day += 1;
  const isWeekWithout = [3, 9, 17, 18].includes(Math.floor(day / 7));
  // Only weekly files show the older days, so two days of a week suffice.
  const isSpare = time < lastDay - 45 * dayMs && ![0, 3].includes(new Date(time).getUTCDay());
  if (isWeekWithout || isSpare || day % 3 === 0 || day % 13 === 5) continue;
  const date = iso(time);
  await ingest(date, day % 11 === 0 ? [] : rowsOf(date, 1));
  if (day % 4 === 0) await ingest(date, rowsOf(date, 2));
  if (day % 10 === 0) await app.ingest('other', date, ingestBody(rowsOf(date, 9)));
}

/** Returns the expected dates by testing every day against the definition of the aggregation. */
function expectedDates(
  aggregation: string,
  today: string,
): { date: string; shown: string | null }[] {
  const newest = (from: string, to: string) =>
    [...held.keys()]
      .filter(date => date >= from && date <= to)
      .sort()
      .at(-1) ?? null;
  if (aggregation === 'today') return [{ date: today, shown: newest('0000', today) }];
  const found: { date: string; shown: string | null }[] = [];
  const now = new Date(today);
  const months = aggregation === '3-months-weekly' ? 3 : 6;
  const start = new Date(now);
  start.setUTCMonth(start.getUTCMonth() - months);
  // The instants below avoid days that the earlier month does not have.
  if (start.getUTCDate() !== now.getUTCDate()) throw new Error(`${today} needs clamping`);
  for (let time = now.getTime() - 250 * dayMs; time < now.getTime(); time += dayMs) {
    const date = iso(time);
    if (aggregation === '30-days-daily') {
      if (time >= now.getTime() - 30 * dayMs) found.push({ date, shown: newest(date, date) });
    } else if (new Date(time).getUTCDay() === 0 && time >= start.getTime()) {
      found.push({ date, shown: newest(iso(time - 6 * dayMs), date) });
    }
  }
  return found;
}

const instants = [
  '2026-03-02T00:00:00.000Z',
  '2026-03-02T23:59:59.999Z',
  '2026-03-08T06:00:00.000Z',
  '2026-02-28T01:00:00.000Z',
  '2026-01-01T00:30:00.000Z',
  // Before the first snapshot.
  '2025-08-19T00:00:00.000Z',
];
const names = ['today', '30-days-daily', '3-months-weekly', '6-months-weekly'];

for (const instant of instants) {
  t.test(`shows the expected rows of every aggregation at ${instant}`, async t => {
    app.setNow(instant);
    const today = instant.slice(0, 10);
    const list = (await app.call('/v1/environments/acme/exports')).json;
    t.equal(list.nextCursor, null);
    t.strictSame(
      list.items.map((item: { aggregation: string }) => item.aggregation),
      names,
    );

    for (const [index, aggregation] of names.entries()) {
      const dates = expectedDates(aggregation, today);
      const missing = dates.filter(({ shown }) => shown === null).map(({ date }) => date);
      const parts = dates.map(({ date, shown }) => exportPart(held.get(shown ?? '') ?? [], date));
      const rowCount = dates.reduce(
        (sum, { shown }) => sum + (held.get(shown ?? '')?.length ?? 0),
        0,
      );

      const file = await app.download('acme', aggregation);
      t.equal(file.status, 200);
      t.equal(file.text, exportHeader + parts.join(''), aggregation);
      t.equal(file.headers['x-total-rows'], String(rowCount));
      t.equal(
        file.headers['x-missing-dates'],
        missing.length === 0 ? undefined : missing.join(','),
      );
      t.equal(
        file.headers['content-disposition'],
        `attachment; filename="acme_${aggregation}_${today}.csv"`,
      );

      const { title, ...item } = list.items[index];
      t.type(title, 'string');
      t.strictSame(item, {
        aggregation,
        dates: dates.map(({ date }) => date),
        missingDates: missing,
        snapshotDates: dates.map(({ shown }) => shown),
        rowCount,
        // No worker renders the snapshots, so only the length of the header line is known.
        sizeBytes: missing.length === dates.length ? exportHeader.length : null,
        etag: file.headers['etag'],
        href: `/v1/environments/acme/exports/${aggregation}.csv`,
      });

      const head = await app.call(item.href, { method: 'HEAD' });
      t.equal(head.status, 200);
      t.equal(head.body.length, 0);
      for (const name of [
        'content-type',
        'content-disposition',
        'cache-control',
        'x-total-rows',
        'x-missing-dates',
      ]) {
        t.equal(head.headers[name], file.headers[name], `HEAD: ${name}`);
      }
    }
  });
}

t.test('covers all kinds of gaps and fall-backs with the generated dates', async t => {
  const weekly = expectedDates('6-months-weekly', '2026-03-02');
  t.ok(weekly.some(({ shown }) => shown === null));
  t.ok(weekly.some(({ date, shown }) => shown === date));
  t.ok(weekly.some(({ date, shown }) => shown !== null && shown < date));
});

t.test('writes CSV that two independent parsers read alike', async t => {
  app.setNow('2026-03-02T10:00:00.000Z');
  const { text } = await app.download('acme', '6-months-weekly');
  const own = parseCsv(text);
  const foreign = await parseWithPackage(text);
  t.ok(own.length > 200);
  t.strictSame(
    own.map(row => row.map(field => field ?? '')),
    foreign,
  );
});

t.test('sends the same bytes as gzip file, gzip encoding and plain', async t => {
  app.setNow('2026-03-02T10:00:00.000Z');
  const plain = await app.download('acme', '30-days-daily');
  t.equal(plain.headers['vary'], 'accept-encoding');
  t.notOk(plain.headers['content-encoding']);

  for (const accepted of ['gzip', 'br, gzip;q=0.8', '*', 'GZIP', 'deflate, gzip;q=1.0, *;q=0.5']) {
    const packed = await app.download('acme', '30-days-daily', { 'accept-encoding': accepted });
    t.equal(packed.headers['content-encoding'], 'gzip', accepted);
    t.equal(packed.headers['content-type'], plain.headers['content-type']);
    t.ok(gunzipSync(packed.body).equals(plain.body), accepted);
  }
  for (const accepted of [
    'identity',
    'br',
    'gzip;q=0',
    'gzip;q=0.1, identity',
    '',
    'nonsense;;q',
  ]) {
    const sent = await app.download('acme', '30-days-daily', { 'accept-encoding': accepted });
    t.notOk(sent.headers['content-encoding'], accepted);
    t.ok(sent.body.equals(plain.body), accepted);
  }
  for (const headers of [{}, { 'accept-encoding': 'gzip' }]) {
    const file = await app.call('/v1/environments/acme/exports/30-days-daily.csv.gz', { headers });
    t.equal(file.headers['content-type'], 'application/gzip');
    t.notOk(file.headers['content-encoding']);
    t.match(
      String(file.headers['content-disposition']),
      /filename="acme_30-days-daily_2026-03-02\.csv\.gz"$/,
    );
    t.ok(gunzipSync(file.body).equals(plain.body));
  }
});

t.test('shows a deleted or replaced snapshot at once', async t => {
  app.setNow('2026-03-08T10:00:00.000Z');
  await app.putEnvironment('changing', 'pro');
  const [before, newest] = ['2026-03-05', '2026-03-07'];
  const replace = (date: string, version: number) =>
    app.ingest('changing', date, ingestBody(rowsOf(date, version)));
  const shown = async () => (await app.download('changing', 'today')).text;
  const fileOf = (date: string, version: number) =>
    exportHeader + exportPart(rowsOf(date, version), '2026-03-08');
  for (const date of [before, newest]) t.equal((await replace(date, 1)).status, 201);
  t.equal(await shown(), fileOf(newest, 1));
  const path = `/v1/environments/changing/snapshots/${newest}`;
  t.equal((await app.call(path, { method: 'DELETE' })).status, 204);
  t.equal(await shown(), fileOf(before, 1));

  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 3, max: 50 }), async version => {
      t.equal((await replace(before, version)).status, 200);
      t.equal(await shown(), fileOf(before, version));
    }),
    { numRuns: 5, seed },
  );
});
