import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import t from 'tap';
import {
  adoptionRow,
  exportHeader,
  exportPart,
  ingestBody,
  ingestColumns,
  ingestLine,
} from '../../helpers/adoption-rows.ts';
import { startTestApp } from '../../helpers/app.ts';

const app = await startTestApp(t);
await app.putEnvironment('acme', 'pro');
const date = '2026-03-02';
const path = `/v1/environments/acme/snapshots/${date}`;
const kept = [adoptionRow({ companyName: 'Kept' })];
const rows = [
  adoptionRow({ companyName: 'a\nb' }),
  adoptionRow({ companyId: 'c2', companyName: null }),
];
const body = ingestBody(rows);

t.beforeEach(async () => {
  await app.ingest('acme', date, ingestBody(kept));
});

async function shows(expected: readonly ReturnType<typeof adoptionRow>[]): Promise<boolean> {
  return (await app.download('acme', 'today')).text === exportHeader + exportPart(expected, date);
}

const crlf = (text: string) => text.replaceAll(/\n(?=c|$|[A-Z])/g, '\r\n');
const good: readonly [name: string, body: string | Buffer, headers?: Record<string, string>][] = [
  ['no change', body],
  ['CRLF', crlf(body)],
  ['a BOM', `\ufeff${body}`],
  ['no last line break', body.slice(0, -1)],
  ['CRLF, a BOM and no last line break', `\ufeff${crlf(body).slice(0, -2)}`],
  ['gzip', gzipSync(body), { 'content-encoding': 'gzip' }],
  ['gzip in any case', gzipSync(body), { 'content-encoding': 'GZip' }],
  ['x-gzip', gzipSync(body), { 'content-encoding': 'x-gzip' }],
  [
    'gzip of two members',
    Buffer.concat([gzipSync(body.slice(0, 50)), gzipSync(body.slice(50))]),
    { 'content-encoding': 'gzip' },
  ],
  ['identity', body, { 'content-encoding': 'identity' }],
  ['a charset', body, { 'content-type': 'text/csv; charset=utf-8; header=present' }],
  ['any case of type', body, { 'content-type': 'Text/CSV' }],
];

const uuidPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

t.test('accepts every form of the same body', async t => {
  for (const [name, sent, headers] of good) {
    const answer = await app.ingest('acme', date, sent, headers);
    t.equal(answer.status, 200, `${name}: ${answer.text}`);
    t.strictSame(
      { ...answer.json, version: uuidPattern.test(answer.json.version) },
      { date, version: true, rowCount: 2, completedAt: '2026-03-02T10:00:00.000Z' },
      name,
    );
    t.ok(await shows(rows), name);
    await app.ingest('acme', date, ingestBody(kept));
  }
});

t.test('creates a snapshot without rows from a header line', async t => {
  for (const sent of [`${ingestColumns.join(',')}\n`, ingestColumns.join(',')]) {
    const answer = await app.ingest('acme', date, sent);
    t.equal(answer.json.rowCount, 0);
    t.ok(await shows([]));
  }
  t.notOk(
    'x-missing-dates' in (await app.download('acme', 'today')).headers,
    'a snapshot without rows is not missing',
  );
});

const header = `${ingestColumns.join(',')}\n`;
const line = ingestLine(adoptionRow());
const refused: readonly [
  name: string,
  body: string | Buffer,
  fault: { row: number; column?: string | null; message: RegExp },
  headers?: Record<string, string>,
][] = [
  ['nothing', '', { row: 0, column: 'Company ID', message: /is missing from the header/ }],
  ['an empty line first', `\n${body}`, { row: 0, message: /is missing from the header/ }],
  ['only a BOM', '\ufeff', { row: 0, message: /is missing from the header/ }],
  ['no header', line, { row: 0, message: /is not a column/ }],
  ['semicolons', body.replaceAll(',', ';'), { row: 0, message: /is not a column/ }],
  [
    'an unknown column',
    header.replace('\n', ',X\n'),
    { row: 0, column: 'X', message: /is not a column/ },
  ],
  [
    'a doubled column',
    header.replace('\n', ',Frequency\n'),
    { row: 0, column: 'Frequency', message: /twice/ },
  ],
  [
    'a missing column',
    header.replace('Frequency,', ''),
    { row: 0, column: 'Frequency', message: /is missing/ },
  ],
  [
    'a short row',
    `${header}${line}c2,x\n`,
    { row: 2, column: null, message: /has 2 fields where the header has 14/ },
  ],
  [
    'a long row',
    `${header}${line.replace('\n', ',\n')}`,
    { row: 1, column: null, message: /has 15 fields/ },
  ],
  [
    'an unclosed quote',
    `${header}${line}"c2`,
    { row: 2, column: 'Company ID', message: /never closed/ },
  ],
  [
    'NUL',
    `${header}${line.replace('Acme', 'Ac\u0000me')}`,
    { row: 1, column: 'Company Name', message: /NUL/ },
  ],
  [
    'bad UTF-8',
    Buffer.from(`${header}${line}${line.replace('c1,Acme', 'c2,\u00ff')}`, 'latin1'),
    { row: 2, column: 'Company Name', message: /UTF-8/ },
  ],
  [
    'the end-of-data mark alone',
    `${header}${line}\\.\n${line}`,
    { row: 2, column: null, message: /has 1 field/ },
  ],
  [
    'a record of more than 1 MiB',
    `${header}"${'x'.repeat(1_100_000)}`,
    { row: 1, message: /longer than 1 MiB|never closed/ },
  ],
  ['gzip without Content-Encoding', gzipSync(body), { row: 0, message: /looks like gzip/ }],
];

t.test('refuses an invalid body with its row and column, and changes nothing', async t => {
  for (const [name, sent, fault, headers] of refused) {
    const answer = await app.ingest('acme', date, sent, headers);
    t.equal(answer.status, 422, `${name}: ${answer.text}`);
    t.equal(answer.headers['content-type'], 'application/problem+json; charset=utf-8');
    t.equal(answer.json.code, 'snapshot_invalid', name);
    t.match(answer.json.errors[0], fault, name);
    t.ok(answer.json.errorCount >= 1);
    t.ok(await shows(kept), `${name}: the snapshot is unchanged`);
  }
  const { rows: left } = await app.database.pool.query(
    `select from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'`,
  );
  t.equal(left.length, 0);
});

t.test('refuses other media types and content encodings', async t => {
  for (const type of [
    'application/json',
    'text/plain',
    'application/gzip',
    'text/csvx',
    '*/*',
    'nonsense',
  ]) {
    const answer = await app.ingest('acme', date, body, { 'content-type': type });
    t.equal(answer.status, 415, type);
    t.equal(answer.json.code, 'unsupported_media_type', type);
  }
  for (const encoding of ['br', 'deflate', 'zstd', 'gzip, gzip', 'nonsense']) {
    const answer = await app.ingest('acme', date, body, { 'content-encoding': encoding });
    t.equal(answer.status, 415, encoding);
  }
  const untyped = await app.call(path, { method: 'PUT', body });
  t.equal(untyped.status, 415);
  t.ok(await shows(kept));
});

t.test('refuses invalid dates, future dates and dates that are too old', async t => {
  for (const wrong of [
    '2026-03-03',
    '2027-01-01',
    '2025-01-25',
    '1999-12-31',
    '2026-02-30',
    '2026-3-1',
    'today',
    '20260301',
    '0000-01-01',
    '2026-03-01T00:00:00Z',
    '%20',
  ]) {
    const answer = await app.ingest('acme', wrong, body);
    t.equal(answer.status, 400, wrong);
    t.equal(answer.json.errors[0].path, '/path/date', wrong);
  }
  app.setNow('2026-03-02T23:59:59.999Z');
  t.equal((await app.ingest('acme', '2026-03-03', body)).status, 400);
  app.setNow('2026-03-03T00:00:00.000Z');
  t.equal((await app.ingest('acme', '2026-03-03', body)).status, 201);
  t.equal(
    (await app.call('/v1/environments/acme/snapshots/2026-03-03', { method: 'DELETE' })).status,
    204,
  );
  t.equal(
    (await app.call('/v1/environments/acme/snapshots/2026-03-03', { method: 'DELETE' })).status,
    404,
  );
  app.setNow('2026-03-02T10:00:00.000Z');
});

t.test('lists snapshots in pages, newest first', async t => {
  await app.putEnvironment('listed', 'free');
  const dates = ['2025-02-28', '2025-12-31', '2026-01-01', '2026-02-28', '2026-03-01'];
  for (const day of dates) await app.ingest('listed', day, body);
  const first = (await app.call('/v1/environments/listed/snapshots?limit=2')).json;
  t.match(first.items[0], {
    date: '2026-03-01',
    version: uuidPattern,
    rowCount: 2,
    completedAt: '2026-03-02T10:00:00.000Z',
    renderedAt: null,
  });
  const second = (
    await app.call(`/v1/environments/listed/snapshots?limit=3&cursor=${first.nextCursor}`)
  ).json;
  t.strictSame(
    [...first.items, ...second.items].map((item: { date: string }) => item.date),
    dates.toReversed(),
  );
  t.equal(second.nextCursor, null);
  const forged = Buffer.from('["2026-02-31"]').toString('base64url');
  t.equal((await app.call(`/v1/environments/listed/snapshots?cursor=${forged}`)).status, 400);
});

t.test('accepts a body that arrives byte by byte', async t => {
  const bytes = Buffer.from(body);
  const answer = await app.ingest(
    'acme',
    date,
    Readable.from(Array.from(bytes, byte => Buffer.from([byte]))),
  );
  t.equal(answer.status, 200, answer.text);
  t.ok(await shows(rows));
});
