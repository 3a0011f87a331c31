import t from 'tap';
import { startTestApp } from '../helpers/app.ts';

const app = await startTestApp(t, { now: '2026-03-02T10:00:00.000Z' });
await app.putEnvironment('acme', 'pro');

/** The example of docs/file-format.md. */
const example = `Company ID,Company Name,Feature Name,Feature ID,Date,First Seen,Last Seen,First Used,Last Used,STARS State Label,STARS State,Frequency Label,Frequency,Satisfaction Label,Satisfaction,Feedback Count,Segment Names,Segment IDs
c1,"Acme, Inc.",Export,f1,2026-03-02,2025-11-01T09:00:00.000Z,2026-03-01T23:59:59.999Z,2025-12-01T00:00:00.000Z,2026-02-28T12:30:00.120Z,retained,3,weekly,2,satisfied,4,7,"All,""Paying, EU""","s1,s2"
c2,,Export,f1,2026-03-02,2026-01-15T00:00:00.000Z,2026-01-15T00:00:00.000Z,,,never,1,never,0,not rated,,0,"",""
`;

const body = `Segment IDs,Segment Names,Company ID,Company Name,Feature ID,Feature Name,First Seen,Last Seen,First Used,Last Used,STARS State,Frequency,Satisfaction,Feedback Count
,,c2,,f1,Export,2026-01-15,2026-01-15T05:45:00+05:45,,,1,0,,0
"s1,s2","All,""Paying, EU""",c1,"Acme, Inc.",f1,Export,2025-11-01T10:00+01:00,2026-03-01T23:59:59.9999999Z,2025-12-01,2026-02-28T12:30:00.12Z,3,2,4,7
`;

t.test('exports only the header line before the first ingest', async t => {
  const answer = await app.download('acme', 'today');
  t.equal(answer.status, 200);
  t.equal(answer.text, example.slice(0, example.indexOf('\n') + 1));
  t.equal(answer.headers['x-total-rows'], '0');
  t.equal(answer.headers['x-missing-dates'], '2026-03-02');
});

t.test('exports the example of docs/file-format.md byte for byte', async t => {
  const ingested = await app.ingest('acme', '2026-03-02', body);
  t.equal(ingested.status, 201, ingested.text);
  t.match(ingested.json.version, /^[0-9a-f-]{36}$/);
  t.strictSame(ingested.json, {
    date: '2026-03-02',
    version: ingested.json.version,
    rowCount: 2,
    completedAt: '2026-03-02T10:00:00.000Z',
  });

  const answer = await app.download('acme', 'today');
  t.equal(answer.text, example);
  t.equal(answer.headers['content-type'], 'text/csv; charset=utf-8; header=present');
  t.equal(
    answer.headers['content-disposition'],
    'attachment; filename="acme_today_2026-03-02.csv"',
  );
  t.equal(answer.headers['cache-control'], 'private, no-cache');
  t.equal(answer.headers['x-total-rows'], '2');
  t.notOk('x-missing-dates' in answer.headers);
});

t.test('ingests an exported file without a change', async t => {
  const exported = (await app.download('acme', 'today')).body;
  for (let round = 1; round <= 2; round += 1) {
    const ingested = await app.ingest('acme', '2026-03-02', exported, {
      'content-type': 'text/csv; charset=utf-8',
    });
    t.equal(ingested.status, 200, ingested.text);
    t.equal(ingested.json.rowCount, 2);
    t.ok((await app.download('acme', 'today')).body.equals(exported));
  }
});
