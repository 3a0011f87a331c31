import { createHash } from 'node:crypto';
import { PassThrough, Readable } from 'node:stream';
import { crc32, gzipSync } from 'node:zlib';
import t from 'tap';
import {
  adoptionRow,
  exportHeader,
  exportPart,
  ingestBody,
  ingestColumns,
  ingestLine,
} from '../../helpers/adoption-rows.ts';
import { startTestApp, testNow } from '../../helpers/app.ts';
import { slowIngest } from '../../helpers/slow-transfers.ts';

/** Tests the checks of an ingest beyond its rows: request, caller and form of the body. */

const app = await startTestApp(t);
await app.putEnvironment('acme', 'pro');
const { pool } = app.database;
const date = '2026-03-02';
const body = ingestBody([adoptionRow(), adoptionRow({ companyId: 'c2' })]);
const packed = gzipSync(body);
const gzipHeader = { 'content-encoding': 'gzip' };
// Tests replace this snapshot.
await app.ingest('acme', date, body);

const digestOf = (key: 'sha-256' | 'sha-512', bytes: string | Buffer) =>
  `${key}=:${createHash(key.replace('-', '')).update(bytes).digest('base64')}:`;

async function versionOf(environmentId = 'acme', day = date): Promise<string | null> {
  const answer = await app.call(`/v1/environments/${environmentId}/snapshots/${day}`);
  return answer.status === 404 ? null : answer.json.version;
}

t.test('verifies Content-Digest over the bytes as sent', async t => {
  for (const [digest, sent, headers] of [
    [digestOf('sha-256', body), body, {}],
    [digestOf('sha-512', body), body, {}],
    [`${digestOf('sha-256', body)}, ${digestOf('sha-512', body)}`, body, {}],
    [digestOf('sha-256', packed), packed, gzipHeader],
    ['', body, {}],
    ['md5=:AAAA:', body, {}],
    ['unknown=1, unixsum=?0', body, {}],
    [`md5=:AAAA:, ${digestOf('sha-256', body)};note=1`, body, {}],
  ] as const) {
    const answer = await app.ingest('acme', date, sent, { ...headers, 'content-digest': digest });
    t.equal(answer.status, 200, `${digest}: ${answer.text}`);
  }
  const kept = await versionOf();
  for (const [digest, sent, headers] of [
    [digestOf('sha-256', `${body}x`), body, {}],
    [digestOf('sha-512', `${body}x`), body, {}],
    [`${digestOf('sha-256', body)}, ${digestOf('sha-512', 'x')}`, body, {}],
    [digestOf('sha-256', body), packed, gzipHeader],
    [digestOf('sha-256', body), body.slice(0, -1), {}],
    [digestOf('sha-256', body), `${body}nonsense\n`, {}],
  ] as const) {
    const answer = await app.ingest('acme', date, sent, { ...headers, 'content-digest': digest });
    t.equal(answer.status, 400, answer.text);
    t.equal(answer.json.code, 'digest_mismatch');
  }
  for (const digest of [
    'sha-256',
    'sha-256=',
    'sha-256=:',
    'sha-256="x"',
    'sha-256=:AAAA:',
    'sha-256=:not base64:',
    'sha-256=(:AAAA:)',
    'SHA-256=:AAAA:',
    'sha-512=1',
    digestOf('sha-256', body).slice(0, -1),
  ]) {
    const answer = await app.ingest('acme', date, body, { 'content-digest': digest });
    t.equal(answer.status, 400, digest);
    t.equal(answer.json.errors[0].path, '/headers/content-digest', digest);
  }
  t.equal(await versionOf(), kept);
});

t.test('refuses a body with another number of rows than announced', async t => {
  const path = `/v1/environments/acme/snapshots/${date}`;
  const put = (query: string, sent: string | Buffer, headers: Record<string, string> = {}) =>
    app.call(`${path}?${query}`, {
      method: 'PUT',
      headers: { 'content-type': 'text/csv', ...headers },
      body: sent,
    });
  t.equal((await put('rowCount=2', body)).status, 200);
  t.equal((await put('rowCount=2', packed, gzipHeader)).status, 200);
  const kept = await versionOf();
  for (const announced of [0, 1, 3, 1_000_000_000]) {
    const answer = await put(`rowCount=${announced}`, body);
    t.equal(answer.status, 422, answer.text);
    t.strictSame(answer.json.errors, [
      { row: 0, column: null, message: `has 2 rows where rowCount announces ${announced}` },
    ]);
  }
  for (const query of ['rowCount=', 'rowCount=-1', 'rowCount=1.5', 'rowCount=x']) {
    t.equal((await put(query, body)).status, 400, query);
  }
  t.match((await put('rowCount=9999999999999999', body)).json.errors, [
    { path: '/query/rowCount', message: 'must be <= 999999999999999' },
  ]);
  t.equal(await versionOf(), kept);
});

t.test('refuses a Date that is not the date of the snapshot', async t => {
  const header = `Date,${ingestColumns.join(',')}\n`;
  const line = (day: string, id: string) => `${day},${ingestLine(adoptionRow({ companyId: id }))}`;
  for (const day of ['', '""', date, `"${date}"`]) {
    const answer = await app.ingest('acme', date, header + line(day, 'c1'));
    t.equal(answer.status, 200, `${day}: ${answer.text}`);
  }
  const kept = await versionOf();
  for (const day of ['2026-03-01', '2026-3-2', `${date}T00:00:00Z`, ` ${date}`, 'x']) {
    const answer = await app.ingest('acme', date, header + line(date, 'c1') + line(day, 'c2'));
    t.strictSame(answer.json.errors, [
      { row: 2, column: 'Date', message: `is not the date of this snapshot, ${date}` },
    ]);
  }
  t.equal(await versionOf(), kept);
});

t.test('reads every member of a gzip body or refuses it', async t => {
  const parts = [0, 60, 200].map((from, index, all) =>
    gzipSync(body.slice(from, all[index + 1] ?? body.length)),
  );
  const empty = gzipSync('');
  const [first = empty, second = empty, third = empty] = parts;
  for (const [name, sent] of [
    ['three members', Buffer.concat(parts)],
    ['empty members', Buffer.concat([empty, first, empty, empty, second, third, empty])],
  ] as const) {
    const answer = await app.ingest('acme', date, sent, gzipHeader);
    t.equal(answer.json.rowCount, 2, `${name}: ${answer.text}`);
  }
  const kept = await versionOf();
  const damaged = Buffer.from(second);
  damaged[12] = (damaged[12] ?? 0) ^ 0xff;
  const badCrc = Buffer.from(packed);
  badCrc.writeUInt32LE(crc32('other'), packed.length - 8);
  const badLength = Buffer.from(packed);
  badLength.writeUInt32LE(1, packed.length - 4);
  for (const [name, sent] of [
    ['a NUL byte between members', Buffer.concat([packed, Buffer.from([0]), packed])],
    ['a NUL byte at the end', Buffer.concat([packed, Buffer.from([0])])],
    ['many NUL bytes at the end', Buffer.concat([packed, Buffer.alloc(100_000)])],
    ['text at the end', Buffer.concat([packed, Buffer.from('garbage')])],
    ['a magic number at the end', Buffer.concat([packed, Buffer.from([0x1f, 0x8b])])],
    ['a damaged second member', Buffer.concat([first, damaged, third])],
    ['a wrong checksum', badCrc],
    ['a wrong length', badLength],
    ['a truncated trailer', packed.subarray(0, -1)],
    ['truncated data', packed.subarray(0, packed.length >> 1)],
    ['a truncated header', packed.subarray(0, 5)],
    ['a truncated second member', Buffer.concat([first, second.subarray(0, -4)])],
    ['nothing', Buffer.alloc(0)],
    ['plain CSV', Buffer.from(body)],
  ] as const) {
    const answer = await app.ingest('acme', date, sent, gzipHeader);
    t.equal(answer.status, 400, `${name}: ${answer.text}`);
    t.equal(answer.json.code, 'validation_failed', name);
    t.match(answer.json.errors[0].message, /gzip/, name);
  }
  t.equal(await versionOf(), kept);
});

t.test('describes a body that is not CSV in UTF-8', async t => {
  const utf16 = Buffer.from(body, 'utf16le');
  for (const [sent, message] of [
    [utf16, /UTF-16/],
    [Buffer.concat([Buffer.from([0xff, 0xfe]), utf16]), /UTF-16/],
    [Buffer.from(utf16).swap16(), /UTF-16/],
    [Buffer.concat([Buffer.from([0xfe, 0xff]), Buffer.from(utf16).swap16()]), /UTF-16/],
    [Buffer.concat([Buffer.from([0xff, 0xfe, 0, 0]), Buffer.alloc(8)]), /UTF-32/],
    [packed, /Content-Encoding: gzip/],
    [Buffer.from('PK\u0003\u0004rest', 'latin1'), /zip/],
    [Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 0]), /zstd/],
    [Buffer.from('PAR1'), /Parquet/],
  ] as const) {
    const answer = await app.ingest('acme', date, sent);
    t.equal(answer.status, 422);
    t.match(answer.json.errors, [{ row: 0, column: null, message }]);
  }
});

t.test('refuses a charset other than UTF-8', async t => {
  for (const charset of ['utf-8', 'UTF-8', '"utf-8"', 'utf8', 'us-ascii']) {
    const headers = { 'content-type': `text/csv; charset=${charset}` };
    t.equal((await app.ingest('acme', date, body, headers)).status, 200, charset);
  }
  for (const charset of ['iso-8859-1', 'ISO-8859-1', 'utf-16', '"windows-1252"', 'x']) {
    const headers = { 'content-type': `text/csv; header=present; charset=${charset}` };
    const answer = await app.ingest('acme', date, body, headers);
    t.equal(answer.status, 415, charset);
    t.equal(answer.json.code, 'unsupported_media_type');
  }
});

t.test('shows a snapshot to a reader and to a writer', async t => {
  const { json } = await app.ingest('acme', date, body);
  const path = `/v1/environments/acme/snapshots/${date}`;
  await pool.query(
    `insert into rendered_snapshots (environment_id, version, snapshot_date, plain_bytes, deflated_bytes, chunk_count, crc32, renderer, rendered_at)
     values ('acme', $1, $2, 1, 1, 1, 0, 'test', '2026-03-02T11:00:00Z')
     on conflict (environment_id, version) do update set rendered_at = excluded.rendered_at`,
    [json.version, date],
  );
  for (const scope of ['exports:read', 'exports:write', 'snapshots:write']) {
    const { token } = await app.makeKey('acme', [scope]);
    t.strictSame((await app.call(path, { token })).json, {
      ...json,
      renderedAt: '2026-03-02T11:00:00.000Z',
    });
    t.equal((await app.call('/v1/environments/acme/snapshots', { token })).status, 200);
  }
  t.equal((await app.call('/v1/environments/acme/snapshots/2026-01-01')).status, 404);
});

t.test('takes no lock before the first 16 KiB of the body', async t => {
  const slow = new PassThrough();
  slow.write(body);
  const answer = app.ingest('acme', date, slow);
  t.equal((await app.ingest('acme', date, body)).status, 200, 'another ingest is not held up');
  slow.end();
  t.equal((await answer).status, 200);
});

t.test('refuses a header that is too long or too wide', async t => {
  const commas = gzipSync(Buffer.alloc(1024 * 1024, ','));
  for (const [sent, message] of [
    [commas, 'is longer than 8 KiB'],
    [gzipSync(`${','.repeat(64)}\n`), 'has more than 64 columns'],
    [gzipSync(`"${'x'.repeat(8192)}"\n`), 'is longer than 8 KiB'],
  ] as const) {
    const answer = await app.ingest('acme', date, sent, gzipHeader);
    t.equal(answer.status, 422);
    t.strictSame(answer.json.errors[0], { row: 0, column: null, message });
  }
});

t.test('checks the caller again before the commit', async t => {
  const change = (text: string) => (id: string) => pool.query(text, [id]);
  for (const [name, apply, status] of [
    ['a revoked key', change('delete from api_keys where id = $1'), 401],
    ['an expired key', change("update api_keys set expires_at = '2026-01-01' where id = $1"), 401],
    ['a key without the scope', change("update api_keys set scopes = '{}' where id = $1"), 403],
    ['a deleted environment', () => app.call('/v1/environments/brief', { method: 'DELETE' }), 404],
    [
      'a new environment with the same id',
      async () => {
        await app.call('/v1/environments/brief', { method: 'DELETE' });
        await app.putEnvironment('brief');
      },
      404,
    ],
  ] as const) {
    await app.putEnvironment('brief');
    const key = await app.makeKey('brief', ['snapshots:write']);
    const slow = await slowIngest(app, 'brief', '2026-02-01', key.token);
    await apply(key.id);
    t.equal(await slow.end(), status, name);
    const { rowCount } = await pool.query(
      "select from snapshot_rows where environment_id = 'brief'",
    );
    t.equal(rowCount, 0, `${name}: nothing was stored`);
    t.equal((await pool.query("select from snapshots where environment_id = 'brief'")).rowCount, 0);
  }
});

t.test('answers a sender that is too slow or takes too long with 408', async t => {
  const usual = { ...app.config.ingest };
  t.teardown(() => Object.assign(app.config.ingest, usual));
  for (const limits of [
    { minBytesPerSecond: 1024, averageMs: 200, maxMs: 60_000 },
    { minBytesPerSecond: 1, averageMs: 60_000, maxMs: 200 },
  ]) {
    Object.assign(app.config.ingest, limits);
    for (const bytes of [10, 30_000]) {
      const slow = new PassThrough();
      slow.write(`${ingestColumns.join(',')}\n`);
      slow.write(ingestLine(adoptionRow({ featureName: 'x'.repeat(bytes) })));
      const answer = await app.ingest('acme', date, slow);
      t.equal(answer.status, 408, answer.text);
      t.equal(answer.json.code, 'request_timeout');
      slow.destroy();
    }
  }
  // A busy machine needs more time than the limits of this test.
  Object.assign(app.config.ingest, usual);
  t.equal((await app.ingest('acme', date, body)).status, 200);
});

const kept = [adoptionRow({ companyName: 'Kept' })];

async function shows(expected: readonly ReturnType<typeof adoptionRow>[]): Promise<boolean> {
  return (await app.download('forms', 'today')).text === exportHeader + exportPart(expected, date);
}

const crlf = (text: string) => text.replaceAll(/\n(?=c|$|[A-Z])/g, '\r\n');
type Form = (body: string) => string | Buffer | Readable;
const forms: readonly [name: string, form: Form, headers?: Record<string, string>][] = [
  ['no change', text => text],
  ['CRLF', crlf],
  ['a BOM', text => `\ufeff${text}`],
  ['no last line break', text => text.slice(0, -1)],
  ['CRLF, a BOM and no last line break', text => `\ufeff${crlf(text).slice(0, -2)}`],
  ['gzip', text => gzipSync(text), gzipHeader],
  ['gzip in any case', text => gzipSync(text), { 'content-encoding': 'GZip' }],
  ['x-gzip', text => gzipSync(text), { 'content-encoding': 'x-gzip' }],
  [
    'gzip of two members',
    text => Buffer.concat([gzipSync(text.slice(0, 50)), gzipSync(text.slice(50))]),
    gzipHeader,
  ],
  ['identity', text => text, { 'content-encoding': 'identity' }],
  ['a charset', text => text, { 'content-type': 'text/csv; charset=utf-8; header=present' }],
  ['one byte at a time', text => Readable.from(Array.from(text, char => Buffer.from(char)))],
  ['any case of type', text => text, { 'content-type': 'Text/CSV' }],
];

const uuidPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

t.test('accepts every form of the same body', async t => {
  await app.putEnvironment('forms', 'pro');
  for (const [name, form, headers] of forms) {
    const rows = [
      adoptionRow({ companyName: `a\n(${name})` }),
      adoptionRow({ companyId: 'c2', companyName: null }),
    ];
    const answer = await app.ingest('forms', date, form(ingestBody(rows)), headers);
    t.strictSame(
      { ...answer.json, version: uuidPattern.test(answer.json.version) },
      { date, version: true, rowCount: 2, completedAt: testNow },
      `${name}: ${answer.text}`,
    );
    t.ok(await shows(rows), name);
  }
});

t.test('creates a snapshot without rows from a header line', async t => {
  await app.putEnvironment('forms', 'pro');
  for (const sent of [`${ingestColumns.join(',')}\n`, ingestColumns.join(',')]) {
    const answer = await app.ingest('forms', date, sent);
    t.equal(answer.json.rowCount, 0);
    t.ok(await shows([]));
  }
  t.notOk(
    'x-missing-dates' in (await app.download('forms', 'today')).headers,
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
    { row: 0, column: 'Frequency', message: /repeated/ },
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
  await app.putEnvironment('forms', 'pro');
  await app.ingest('forms', date, ingestBody(kept));
  for (const [name, sent, fault, headers] of refused) {
    const answer = await app.ingest('forms', date, sent, headers);
    t.equal(answer.status, 422, `${name}: ${answer.text}`);
    t.equal(answer.headers['content-type'], 'application/problem+json; charset=utf-8');
    t.equal(answer.json.code, 'snapshot_invalid', name);
    t.match(answer.json.errors[0], fault, name);
    t.ok(answer.json.errorCount >= 1);
  }
  t.ok(await shows(kept));
  const { rows: left } = await app.database.pool.query(
    `select from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'`,
  );
  t.equal(left.length, 0);
});

t.test('refuses other media types and content encodings', async t => {
  const kept = await versionOf();
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
  const path = `/v1/environments/acme/snapshots/${date}`;
  const untyped = await app.call(path, { method: 'PUT', body });
  t.equal(untyped.status, 415);
  t.equal(await versionOf(), kept);
});

t.test('refuses invalid dates, future dates and dates that are too old', async t => {
  for (const wrong of [
    '2026-03-03',
    '2027-01-01',
    '2025-01-25',
    '1999-12-31',
    '0001-01-01',
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
  const { rows } = await pool.query(
    `select relname from pg_class where relname ~ '^snapshot_rows_(0001|1999|20250125|20260303|2027)' and relkind = 'r'`,
  );
  t.strictSame(rows, [], 'no partition was made');
  t.equal((await app.ingest('acme', '2025-01-26', body)).status, 201);
  t.teardown(() => app.setNow(testNow));
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
