import { text } from 'node:stream/consumers';
import { createClient } from '@warehouse-export/client';
import t, { type Test } from 'tap';
import {
  type AdoptionRow,
  adoptionRow,
  exportHeader,
  exportPart,
  ingestBody,
} from '../helpers/adoption-rows.ts';
import { startTestApp } from '../helpers/app.ts';
import { parseCsv, parseList, parseWithPackage } from '../helpers/csv-reader.ts';
import { testAdminToken } from '../helpers/secrets.ts';

const app = await startTestApp(t);

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
  await app.putEnvironment('empty', 'pro');
  const answer = await app.download('empty', 'today');
  t.equal(answer.status, 200);
  t.equal(answer.text, example.slice(0, example.indexOf('\n') + 1));
  t.equal(answer.headers['x-total-rows'], '0');
  t.equal(answer.headers['x-missing-dates'], '2026-03-02');
});

t.test('exports the example of docs/file-format.md byte for byte', async t => {
  await app.putEnvironment('acme', 'pro');
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
  await app.putEnvironment('again', 'pro');
  await app.ingest('again', '2026-03-02', body);
  const exported = (await app.download('again', 'today')).body;
  for (let round = 1; round <= 2; round += 1) {
    const ingested = await app.ingest('again', '2026-03-02', exported, {
      'content-type': 'text/csv; charset=utf-8',
    });
    t.equal(ingested.status, 200, ingested.text);
    t.equal(ingested.json.rowCount, 2);
    t.ok((await app.download('again', 'today')).body.equals(exported));
  }
});

t.test('keeps hostile text over an export and an ingest', async t => {
  const client = createClient({ baseUrl: app.origin, token: testAdminToken });
  await app.putEnvironment('hostile', 'pro');
  const date = '2026-03-02';

  async function download(environmentId: string): Promise<string> {
    const file = await client.downloadExport({ environmentId, aggregation: 'today' });
    return await text(file.body);
  }

  const hostile = [
    ' ',
    '  leading and trailing  ',
    '\t',
    '"',
    '""',
    '"""',
    '"quoted"',
    'a"b',
    ',',
    ',,,',
    'a,b',
    '\n',
    '\r',
    '\r\n',
    '\n\r',
    'a\nb',
    'a\r\nb\r\nc',
    'ends with a line break\n',
    '\\.',
    '\\.\n',
    '\n\\.\n',
    'x\n\\.\ny',
    '\\',
    '\\\\',
    '\\n',
    '\\N',
    'NULL',
    'null',
    '\\"',
    "'",
    "''",
    "'; drop table snapshots; --",
    "' or '1'='1",
    '$1',
    '$$',
    '%s %I %L',
    ':name',
    "E'\\x41'",
    '=cmd()',
    '=1+1',
    '+1',
    '-1',
    '@SUM(A1)',
    '=HYPERLINK("http://evil.example","x")',
    '\t=1',
    '#',
    '# comment',
    'é',
    'e\u0301',
    'ﬁ',
    '😀',
    '👩‍👩‍👧‍👦',
    '🇩🇪',
    '\u{10ffff}',
    '\ufffd',
    '\ufffe',
    '\ufeff',
    '\ufeffinside\ufeff',
    '\u200b',
    '\u202eright to left',
    'שלום',
    'مرحبا',
    'ｆｕｌｌ',
    '\u0001\u0002\u001f\u007f',
    '\u0085',
    '\u2028\u2029',
    '\u00a0',
    '<script>alert(1)</script>',
    '&amp;',
    '{"json":[1]}',
    '../../etc/passwd',
    'a;b',
    'a\tb',
    'Company ID',
    '__proto__',
    'x'.repeat(1000),
  ];

  function fullOf(text: string, index: number): AdoptionRow {
    // IDs of segments must not contain commas.
    const segmentId = text.replaceAll(',', ';');
    return adoptionRow({
      companyId: text,
      companyName: text,
      featureId: `${text}${index}`,
      featureName: text,
      segmentNames: [text, 'All', text],
      segmentIds: [segmentId, 's1', `${segmentId}2`],
    });
  }

  async function roundTrips(t: Test, rows: readonly AdoptionRow[]): Promise<string> {
    const expected = exportHeader + exportPart(rows, date);
    let body = ingestBody(rows);
    for (const round of ['first', 'second', 'third']) {
      const snapshot = await client.uploadSnapshot({ environmentId: 'hostile', date, body });
      t.equal(snapshot.rowCount, rows.length);
      body = await download('hostile');
      t.ok(body === expected, `${round} time: the same bytes`);
    }
    return body;
  }

  t.test('keeps hostile text in every field over three exports and ingests', async t => {
    const rows = hostile.map(fullOf);
    const file = await roundTrips(t, rows);

    const inOrder = [...rows].sort(
      (left, right) =>
        Buffer.compare(Buffer.from(left.companyId), Buffer.from(right.companyId)) ||
        Buffer.compare(Buffer.from(left.featureId), Buffer.from(right.featureId)),
    );
    const [, ...own] = parseCsv(file);
    for (const [index, row] of inOrder.entries()) {
      const fields = own[index] ?? [];
      t.strictSame(
        [
          fields[0],
          fields[1],
          fields[2],
          fields[3],
          parseList(fields[16] ?? ''),
          parseList(fields[17] ?? ''),
        ],
        [
          row.companyId,
          row.companyName,
          row.featureName,
          row.featureId,
          row.segmentNames,
          row.segmentIds,
        ],
        `row ${index + 1}`,
      );
    }
  });

  t.test('gives a CSV package the same text, apart from null and empty', async t => {
    // The package drops fields that consist of blanks, contrary to RFC 4180.
    const rows = hostile.filter(text => /\S/.test(text)).map(fullOf);
    const file = await roundTrips(t, rows);
    t.strictSame(
      await parseWithPackage(file),
      parseCsv(file).map(row => row.map(field => field ?? '')),
    );
  });

  t.test('distinguishes null, the empty string and text that looks like null', async t => {
    const names = [null, '', ' ', '""', 'NULL', '\\N', "''", 'null'];
    const rows = names.map((companyName, index) =>
      adoptionRow({ companyId: `c${index}`, companyName, featureName: companyName ?? '' }),
    );
    const file = await roundTrips(t, rows);
    const [, ...fields] = parseCsv(file);
    t.strictSame(
      fields.map(row => row[1]),
      names,
    );
    t.strictSame(
      fields.map(row => row[2]),
      names.map(name => name ?? ''),
    );
  });

  t.test('keeps names of 100 kB and ids of 1 kB', async t => {
    const rows = ['x', '"', ',', '\n', 'é', '😀', '"\r\n'].map((text, index) =>
      adoptionRow({
        companyId: `${index}${'i'.repeat(1023)}`,
        featureId: text.repeat(Math.floor(1024 / Buffer.byteLength(text))),
        companyName: text.repeat(Math.ceil(100_000 / text.length)),
        featureName: text.repeat(Math.ceil(100_000 / text.length)),
        segmentNames: [text.repeat(20_000)],
        segmentIds: ['s1'],
      }),
    );
    await roundTrips(t, rows);
  });

  t.test('keeps no segments, one empty segment and several segments', async t => {
    const lists: (readonly [names: string[], ids: string[]])[] = [
      [[], []],
      [[''], ['s1']],
      [
        ['', ''],
        ['s1', 's2'],
      ],
      [
        ['a', ''],
        ['s1', 's2'],
      ],
      [
        ['', 'a', ''],
        ['s1', 's2', 's3'],
      ],
      [
        ['a,b', 'c"d', 'e\nf', 'g\r'],
        ['s1', 's2', 's"3', 's\n4'],
      ],
    ];
    await roundTrips(
      t,
      lists.map(([segmentNames, segmentIds], index) =>
        adoptionRow({ companyId: `c${index}`, segmentNames, segmentIds }),
      ),
    );
  });

  t.test('keeps environments apart whose ids contain SQL and similar characters', async t => {
    for (const id of ['a', 'A', 'a-b_c', '0', 'x'.repeat(64), '1e5', 'null', 'snapshots']) {
      await app.putEnvironment(id, 'pro');
      const rows = [adoptionRow({ companyName: `of ${id}` })];
      await client.uploadSnapshot({ environmentId: id, date, body: ingestBody(rows) });
      t.equal(await download(id), exportHeader + exportPart(rows, date), id);
    }
    const refused = [
      "a'b",
      'a b',
      'a"b',
      '-a',
      '_a',
      'a.b',
      'é',
      'a;drop table environments',
      "x' or true --",
      'x'.repeat(65),
      'a\n',
      '$1',
      '..',
      '%00',
    ];
    for (const id of refused) {
      for (const path of ['exports/today.csv', 'snapshots']) {
        const segment = id === '%00' ? id : encodeURIComponent(id);
        const answer = await app.call(`/v1/environments/${segment}/${path}`);
        t.ok(answer.status === 400 || answer.status === 404, `${id}: ${answer.status}`);
      }
    }
  });
});
