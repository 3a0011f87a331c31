import fs from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { readParquet as readWithRust } from 'parquet-wasm';
import t from 'tap';
import { createParquetEncoder } from '../../../src/exports/parquet/encode.ts';
import { writerVersion } from '../../../src/exports/parquet/renderer.ts';
import { headerLine } from '../../../src/snapshots/columns.ts';
import { comparableRows, readParquet, withoutDuckDb } from '../../helpers/read-parquet.ts';

const quoted = (text: string | null) => (text === null ? '' : `"${text.replaceAll('"', '""')}"`);

interface Row {
  readonly id?: string;
  readonly name?: string | null;
  readonly used?: string | null;
  readonly satisfaction?: number | null;
  readonly feedback?: string;
  readonly names?: string;
  readonly ids?: string;
}

function line({ id = 'c', name = null, used = null, satisfaction = null, ...rest }: Row): string {
  const { feedback = '0', names = '', ids = '' } = rest;
  return [
    ...[quoted(id), quoted(name), 'Export', 'f1', '2026-03-02'],
    ...['0001-01-01T00:00:00.000Z', '9999-12-31T23:59:59.999Z', used ?? '', used ?? ''],
    ...['retained', 3, 'weekly', 2, 'satisfied', satisfaction ?? '', feedback],
    ...[quoted(names), quoted(ids)],
  ]
    .join(',')
    .concat('\n');
}

/** Converts a file that arrives in pieces of `pieceBytes`. */
function encode(rows: readonly string[], pieceBytes = 64 * 1024): Buffer {
  const csv = Buffer.from(headerLine + rows.join(''));
  const encoder = createParquetEncoder();
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < csv.length; at += pieceBytes)
    pieces.push(...encoder.add(csv.subarray(at, at + pieceBytes)));
  pieces.push(...encoder.end(rows.length));
  return Buffer.concat(pieces);
}

const oddTexts = [
  null,
  '',
  'Acme, Inc.',
  'says "hi"',
  'two\nlines\r\nof text',
  '\uFEFFmark',
  ' spaced ',
  '\u0001',
  'Ω 株式会社 🎈 \u{10FFFF} \uFFFF',
  'x'.repeat(70_000),
];
const oddLists = [
  '',
  'All',
  'All,"Paying, EU"',
  '"says ""hi""",two',
  '"two\nlines",🎈,,',
  ',',
  '"\uFEFF"',
  '"""",""""""',
];
const oddRows = [
  ...oddTexts.map((name, index) => line({ id: `c${index}`, name })),
  ...oddLists.map((names, index) => line({ id: `d${index}`, names, ids: 's1,s2' })),
  line({ id: 'e1', used: '1969-12-31T23:59:59.001Z', satisfaction: 1 }),
  line({ id: 'e2', used: '2026-02-28T12:30:00.120Z', satisfaction: 5 }),
  line({ id: 'e3', feedback: '9223372036854775807' }),
  line({ id: '"e4"\n', feedback: '999999999999999999' }),
];

t.test('writes the columns of docs/file-format.md', { skip: withoutDuckDb }, async t => {
  const { columns } = await readParquet(t, encode([line({})]));
  const instant = 'TIMESTAMP WITH TIME ZONE';
  t.strictSame(columns, [
    ['company_id', 'VARCHAR'],
    ['company_name', 'VARCHAR'],
    ['feature_name', 'VARCHAR'],
    ['feature_id', 'VARCHAR'],
    ['date', 'DATE'],
    ['first_seen', instant],
    ['last_seen', instant],
    ['first_used', instant],
    ['last_used', instant],
    ['stars_state_label', 'VARCHAR'],
    ['stars_state', 'INTEGER'],
    ['frequency_label', 'VARCHAR'],
    ['frequency', 'INTEGER'],
    ['satisfaction_label', 'VARCHAR'],
    ['satisfaction', 'INTEGER'],
    ['feedback_count', 'BIGINT'],
    ['segment_names', 'VARCHAR[]'],
    ['segment_ids', 'VARCHAR[]'],
  ]);
});

t.test('keeps every value of a CSV file in Parquet', { skip: withoutDuckDb }, async t => {
  const file = encode(oddRows);
  const { rows } = await readParquet(t, file);
  t.strictSame(rows, comparableRows(headerLine + oddRows.join('')));
  t.ok(readWithRust(file), 'Arrow for Rust reads it too');
});

t.test('keeps columns that are null or empty in all rows', { skip: withoutDuckDb }, async t => {
  const lines = Array.from({ length: 3 }, (_, index) => line({ id: `c${index}` }));
  const file = encode(lines);
  t.strictSame((await readParquet(t, file)).rows, comparableRows(headerLine + lines.join('')));
  t.ok(readWithRust(file));
});

t.test('keeps every row of several row groups', { skip: withoutDuckDb }, async t => {
  const lines = Array.from({ length: 5_001 }, (_, index) =>
    line({ id: `company-${index}`, name: index % 3 === 0 ? null : `n${index % 7}`, names: 'a,b' }),
  );
  const { rows } = await readParquet(t, encode(lines));
  t.ok(isDeepStrictEqual(rows, comparableRows(headerLine + lines.join(''))));
});

t.test('gives the same bytes for pieces of any size', t => {
  const whole = encode(oddRows, Number.POSITIVE_INFINITY);
  for (const size of [1000, 999]) t.ok(encode(oddRows, size).equals(whole));
  t.end();
});

t.test('writes a file without rows that readers accept', { skip: withoutDuckDb }, async t => {
  const file = encode([]);
  const { columns, rows } = await readParquet(t, file);
  t.equal(columns.length, 18);
  t.strictSame(rows, []);
  const arrow = Buffer.from(readWithRust(file).intoIPCStream());
  t.ok(arrow.includes('segment_ids'), 'Arrow for Rust reads it too');
});

t.test('ends a row group before long rows fill the memory', t => {
  const encoder = createParquetEncoder();
  const rows = Array.from({ length: 8 }, () => line({ name: 'x'.repeat(900_000) }));
  encoder.add(Buffer.from(headerLine));
  const groups = rows.map(row => encoder.add(Buffer.from(row)).length);
  t.strictSame(groups, [0, 0, 1, 0, 0, 1, 0, 0]);
  t.end();
});

t.test(
  'reads unquoted quotes in lists of rows that SQL wrote',
  { skip: withoutDuckDb },
  async t => {
    const { rows } = await readParquet(t, encode([line({ names: 'a "b",c"', ids: '"open,' })]));
    const texts = (value: unknown) =>
      String(value)
        .split('.')
        .slice(0, -1)
        .map(item => Buffer.from(item, 'hex').toString());
    t.strictSame(rows[0]?.slice(-2).map(texts), [['a "b"', 'c"'], ['open,']]);
  },
);

t.test('fails for a list that would fill the memory', t => {
  const list = (items: number) => ','.repeat(items - 1);
  t.throws(() => encode([line({ names: list(2 ** 19 + 1) })]), {
    message: 'A list has more than 524288 items.',
  });
  const longest = { names: list(2 ** 19), ids: list(2 ** 19) };
  t.equal(encode([line(longest)]).toString('latin1', 0, 4), 'PAR1');
  t.end();
});

t.test('fails instead of ending a file that lacks rows', t => {
  const cases: [string, string, RegExp][] = [
    ['fewer rows', line({}), /expected 2, read 1/],
    ['an unfinished row', line({}) + line({}).slice(0, -5), /never closed|fields instead of/],
    ['another number of fields', `a,b\n${line({})}`, /Row 1 has 2 fields instead of 18/],
    ['an instant that is none', line({ used: 'soon' }) + line({}), /"soon" is not an ISO-8601/],
  ];
  for (const [what, rows, expected] of cases) {
    const convert = () => {
      const encoder = createParquetEncoder();
      encoder.add(Buffer.from(headerLine + rows));
      encoder.end(2);
    };
    t.throws(convert, expected, what);
  }
  t.end();
});

t.test('names the installed version of the writer', t => {
  const file = new URL('../package.json', import.meta.resolve('hyparquet-writer'));
  t.equal(JSON.parse(fs.readFileSync(file, 'utf8')).version, writerVersion);
  t.end();
});
