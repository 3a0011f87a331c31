import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { parseString } from 'fast-csv';
import t from 'tap';
import { estimateStory } from '../../demo/estimate-story.ts';
import { snapshotCsv, snapshotHeader, snapshotRows } from '../../demo/generate-snapshots.ts';
import { type Story, snapshotDates, snapshotInstant, storyUpTo } from '../../demo/story.ts';
import { startTestApp } from '../helpers/app.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { compileCache } from '../helpers/start-flags.ts';

const now = new Date('2026-03-02T15:30:00.000Z');
const story = storyUpTo(now, { seed: 7, companies: 200, features: 12, days: 120 });
const dates = snapshotDates(story);

interface Row {
  companyId: string;
  companyName: string | null;
  featureId: string;
  firstSeen: number;
  lastSeen: number;
  firstUsed: number | null;
  lastUsed: number | null;
  starsState: number;
  frequency: number;
  satisfaction: number | null;
  feedbackCount: number;
  segmentNames: string;
  segmentIds: string;
}

function rowsOn(date: string, of: Story = story): Row[] {
  const instant = (value: unknown) => (value === null ? null : Date.parse(String(value)));
  return Array.from(snapshotRows(of, snapshotInstant(date, now)), row => ({
    companyId: String(row[0]),
    companyName: row[1] as string | null,
    featureId: String(row[2]),
    firstSeen: Date.parse(String(row[4])),
    lastSeen: Date.parse(String(row[5])),
    firstUsed: instant(row[6]),
    lastUsed: instant(row[7]),
    starsState: Number(row[8]),
    frequency: Number(row[9]),
    satisfaction: row[10] as number | null,
    feedbackCount: Number(row[11]),
    segmentNames: String(row[12]),
    segmentIds: String(row[13]),
  }));
}

const csvOf = (of: Story, date: string) => buffer(snapshotCsv(of, snapshotInstant(date, now)));
const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

t.test('gives a story of N days N closed days and today, oldest first', t => {
  t.equal(dates.length, 121);
  t.equal(dates[0], '2025-11-02');
  t.equal(dates.at(-2), '2026-03-01');
  t.equal(dates.at(-1), '2026-03-02');
  t.equal(snapshotInstant('2026-03-01', now), Date.parse('2026-03-01T23:59:59.999Z'));
  t.equal(snapshotInstant('2026-03-02', now), now.getTime());
  t.end();
});

t.test(
  'gives equal bytes for equal stories in any order of days, and others for another seed',
  async t => {
    const first = sha256(await csvOf(story, '2026-01-15'));
    await csvOf(story, '2026-03-01');
    t.equal(sha256(await csvOf({ ...story }, '2026-01-15')), first);
    t.not(sha256(await csvOf({ ...story, seed: 8 }, '2026-01-15')), first);
  },
);

t.test('generates rows without contradictions', t => {
  for (const date of dates.filter((_, day) => day % 10 === 0)) {
    const end = snapshotInstant(date, now);
    for (const row of rowsOn(date)) {
      const used = row.firstUsed !== null;
      const faults = [
        row.firstSeen > row.lastSeen && 'first seen after last seen',
        row.lastSeen > end && 'seen after the snapshot',
        used !== (row.lastUsed !== null) && 'first used without last used',
        row.firstUsed !== null && row.firstUsed < row.firstSeen && 'used before seen',
        row.firstUsed !== null &&
          row.firstUsed > (row.lastUsed ?? 0) &&
          'first used after last used',
        (row.lastUsed ?? 0) > row.lastSeen && 'used after last seen',
        used === (row.starsState === 1) && 'the state never contradicts the use',
        (row.starsState === 1 || row.starsState === 4) !== (row.frequency === 0) &&
          'frequency contradicts the state',
        !used &&
          (row.satisfaction !== null || row.feedbackCount > 0) &&
          'satisfaction or feedback without use',
        row.satisfaction !== null &&
          !(row.satisfaction >= 1 && row.satisfaction <= 5) &&
          'satisfaction range',
        !Number.isInteger(row.feedbackCount) && 'feedback is not a whole number',
      ].filter(fault => fault !== false);
      if (faults.length > 0)
        t.fail(`${date} ${row.companyId} ${row.featureId}: ${faults.join(', ')}`);
    }
  }
  t.ok(rowsOn('2026-03-01').length > 1000);
  t.end();
});

t.test('keeps what an earlier day shows in each later day', t => {
  // Every day is generated, so fewer companies than in the other tests.
  const small = { ...story, companies: 30 };
  let before = new Map<string, Row>();
  for (const date of dates) {
    const today = new Map(
      rowsOn(date, small).map(row => [`${row.companyId} ${row.featureId}`, row]),
    );
    for (const [pair, old] of before) {
      const row = today.get(pair);
      if (row === undefined) t.fail(`${pair} is missing on ${date}`);
      else if (row.feedbackCount < old.feedbackCount) t.fail(`${pair} lost feedback on ${date}`);
      else if (row.firstSeen !== old.firstSeen || row.lastSeen < old.lastSeen)
        t.fail(`${pair} unseen on ${date}`);
      else if (old.firstUsed !== null && row.firstUsed !== old.firstUsed)
        t.fail(`${pair} unused on ${date}`);
      else if ((row.lastUsed ?? 0) < (old.lastUsed ?? 0)) t.fail(`${pair} used earlier on ${date}`);
      else if (old.starsState > row.starsState)
        t.fail(`${pair} fell from ${old.starsState} on ${date}`);
    }
    before = today;
  }
  t.ok(before.size > rowsOn(dates[0] ?? '', small).length, 'the number of companies grows');
  t.end();
});

t.test('generates every state, frequency, satisfaction and kind of text', t => {
  const rows = rowsOn('2026-03-01');
  const kinds = (of: (row: Row) => unknown) => new Set(rows.map(of));
  t.same([...kinds(row => row.starsState)].sort(), [1, 2, 3, 4]);
  t.same([...kinds(row => row.frequency)].sort(), [0, 1, 2, 3]);
  t.ok(kinds(row => row.satisfaction).has(null));
  t.ok(kinds(row => row.satisfaction).size > 3);
  t.ok(kinds(row => row.companyName).has(null), 'some names are null');
  t.ok(kinds(row => row.companyName).has(''), 'some names are empty');
  t.ok(kinds(row => row.segmentNames).has(''), 'some companies are in no segment');
  t.ok(
    rows.some(row => row.segmentNames.includes('"Paying, EU"')),
    'a comma inside a list item',
  );
  t.ok(
    rows.some(row => row.segmentNames.includes('"""Early"" adopters"')),
    'quotes inside a list item',
  );
  t.end();
});

t.test('writes null and the empty string differently, in exact bytes', async t => {
  const text = (await csvOf(story, '2026-03-01')).toString('utf8');
  const lines = text.split('\n');
  t.equal(lines[0], snapshotHeader.join(','));
  t.equal(lines.pop(), '', 'the last line ends with LF');
  t.notMatch(text, /\r|\ufeff/);
  const nameless = rowsOn('2026-03-01').filter(row => row.companyName === null);
  const unnamed = rowsOn('2026-03-01').filter(row => row.companyName === '');
  t.equal(lines.filter(line => /^c\d+,,f/.test(line)).length, nameless.length);
  t.equal(lines.filter(line => /^c\d+,"",f/.test(line)).length, unnamed.length);
  t.ok(
    lines.some(line => line.endsWith(',"",""')),
    'the empty list is a quoted empty string',
  );
  t.ok(lines.some(line => line.includes(',"All,""Paying, EU""","seg-all,seg-paying-eu"')));
});

t.test('writes CSV from which another reader gets the same values', async t => {
  const text = (await csvOf(story, '2026-03-01')).toString('utf8');
  const parsed: Record<string, string>[] = [];
  await new Promise((resolve, reject) =>
    parseString(text, { headers: true, strictColumnHandling: true })
      .on('error', reject)
      .on('data-invalid', row => reject(new Error(`bad row ${row}`)))
      .on('data', row => parsed.push(row))
      .on('end', resolve),
  );
  const expected = Array.from(snapshotRows(story, snapshotInstant('2026-03-01', now)), row =>
    Object.fromEntries(snapshotHeader.map((column, index) => [column, String(row[index] ?? '')])),
  );
  t.same(parsed, expected);
});

t.test('generates rows only while the reader reads', async t => {
  const huge = storyUpTo(now, { seed: 1, companies: 10_000_000, features: 50, days: 200 });
  const csv = snapshotCsv(huge, now.getTime());
  let bytes = 0;
  for await (const chunk of csv) {
    bytes += chunk.length;
    if (bytes > 1_000_000) break;
  }
  t.ok(csv.destroyed);
  t.ok(bytes < 2_000_000);
});

t.test('loads the generated snapshots', async t => {
  t.setTimeout(600_000);

  const program = path.join(import.meta.dirname, '../../demo/seed.ts');

  function seed(
    args: readonly string[],
  ): Promise<{ code: unknown; stdout: string; stderr: string }> {
    return new Promise(resolve =>
      execFile(
        process.execPath,
        [program, ...args],
        { env: { ADMIN_TOKEN: testAdminToken, ...compileCache() } },
        (error, stdout, stderr) => resolve({ code: error?.code ?? 0, stdout, stderr }),
      ),
    );
  }

  t.test('seed keeps name and plan of an existing environment', async t => {
    // The program sends days up to the real date. The service is a day ahead, as the day may end.
    const tomorrow = new Date(Date.now() + 86_400_000);
    const app = await startTestApp(t, { now: tomorrow.toISOString() });
    const body = { name: 'Acme production', plan: 'pro' };
    await app.call('/v1/environments/acme', { method: 'PUT', json: body });
    const size = ['--url', app.origin, '--companies', '5', '--features', '3', '--days', '4'];
    const first = await seed([...size, '--environment', 'acme', '--plan', 'free']);
    t.equal(first.code, 0, first.stderr);
    t.match((await app.call('/v1/environments/acme')).json, body);

    const lines = first.stdout.split('\n');
    t.match(lines[0], /^Sending about \d+ rows in 5 snapshots to acme, 1 MB as CSV/);
    t.match(lines[1], /1\/5 snapshots/, 'progress without a terminal');
    t.match(first.stdout, /5\/5 snapshots/);

    const second = await seed([...size, '--environment', 'other', '--plan', 'free']);
    t.equal(second.code, 0, second.stderr);
    t.match((await app.call('/v1/environments/other')).json, { name: 'other', plan: 'free' });
  });

  t.test('seed estimates rows and bytes within 15 percent', async t => {
    const now = new Date('2026-03-02T15:30:00.000Z');
    const story = storyUpTo(now, { seed: 1, companies: 500, features: 24, days: 6 });
    let bytes = 0;
    let lines = 0;
    for (const date of snapshotDates(story)) {
      for await (const chunk of snapshotCsv(story, snapshotInstant(date, now))) {
        const text = String(chunk);
        bytes += Buffer.byteLength(text);
        lines += text.split('\n').length - 1;
      }
    }
    const estimate = estimateStory(story, now);
    t.ok(Math.abs(estimate.rows / lines - 1) < 0.15, `${estimate.rows} of ${lines}`);
    t.ok(Math.abs(estimate.csvBytes / bytes - 1) < 0.15, `${estimate.csvBytes} of ${bytes}`);
  });
});
