import t from 'tap';
import {
  createCsvScanner,
  MalformedCsv,
  maxHeaderBytes,
  maxRecordBytes,
  Quoting,
} from '../../src/shared/csv-scanner.ts';

type Read =
  | { readonly header: readonly string[]; readonly records: string }
  | { readonly row: number; readonly field: number | null; readonly message: string };

/** Reads a body that arrives in these pieces. Shows CRLF in records as LF. */
function read(pieces: readonly Buffer[]): Read {
  let header: readonly string[] = [];
  let records = '';
  const scan = createCsvScanner(({ row, bytes, end, fieldCount, from, to, quoting }) => {
    const fields = Array.from({ length: fieldCount }, (_, index) => {
      const text = bytes.toString('latin1', from[index], to[index]);
      return quoting[index] === Quoting.none ? text : `"${text}"`;
    });
    if (row === 0) {
      header = fields;
      return;
    }
    records += fields.join(',') + (bytes[end - 1] === 0x0a ? '\n' : '');
  });
  try {
    for (const piece of pieces) scan(piece, false);
    scan(Buffer.alloc(0), true);
  } catch (error) {
    if (!(error instanceof MalformedCsv)) throw error;
    return { row: error.row, field: error.field, message: error.message };
  }
  return { header, records };
}

/** Reads a body whole, byte by byte and cut at every position. Throws if the results differ. */
function readEveryWay(body: Buffer): Read {
  const whole = read([body]);
  const bytes = [...body].map(byte => Buffer.from([byte]));
  const ways: (readonly [string, readonly Buffer[]])[] = [
    ['byte by byte', bytes],
    ['empty chunks between', bytes.flatMap(byte => [Buffer.alloc(0), byte, Buffer.alloc(0)])],
    ['two bytes each', bytes.flatMap((_, at) => (at % 2 === 0 ? [body.subarray(at, at + 2)] : []))],
    [
      'three bytes each',
      bytes.flatMap((_, at) => (at % 3 === 0 ? [body.subarray(at, at + 3)] : [])),
    ],
  ];
  for (let cut = 0; cut <= body.length; cut += 1) {
    ways.push([`cut at ${cut}`, [body.subarray(0, cut), body.subarray(cut)]]);
  }
  for (const [way, chunks] of ways) {
    const got = JSON.stringify(read(chunks));
    if (got !== JSON.stringify(whole))
      throw new Error(`${way}: ${got} where whole: ${JSON.stringify(whole)}`);
  }
  return whole;
}

const good: readonly [name: string, body: string, header: readonly string[], records: string][] = [
  ['one row', 'A,B\n1,2\n', ['A', 'B'], '1,2\n'],
  ['no rows', 'A,B\n', ['A', 'B'], ''],
  ['a header without a line break', 'A,B', ['A', 'B'], ''],
  ['a missing last line break', 'A,B\n1,2\n3,4', ['A', 'B'], '1,2\n3,4'],
  ['a missing last line break after a quote', 'A,B\n1,"2"', ['A', 'B'], '1,"2"'],
  ['a missing last line break after a comma', 'A,B\n1,', ['A', 'B'], '1,'],
  ['CRLF', 'A,B\r\n1,2\r\n3,4\r\n', ['A', 'B'], '1,2\n3,4\n'],
  ['CRLF after a quote', 'A,B\r\n1,"2"\r\n', ['A', 'B'], '1,"2"\n'],
  ['CRLF and LF mixed', 'A,B\n1,2\r\n3,4\n', ['A', 'B'], '1,2\n3,4\n'],
  ['line breaks inside quotes stay', 'A,B\r\n"1\r\n\n\r",2\r\n', ['A', 'B'], '"1\r\n\n\r",2\n'],
  ['only CRLF inside quotes', 'A\n"\r\n"\n', ['A'], '"\r\n"\n'],
  ['the end-of-data mark inside quotes', 'A,B\n"x\n\\.\ny",2\n', ['A', 'B'], '"x\n\\.\ny",2\n'],
  ['doubled quotes', 'A,B\n"""","a""b"\n', ['A', 'B'], '"""","a""b"\n'],
  ['null and empty', 'A,B\n,""\n', ['A', 'B'], ',""\n'],
  ['quoted header names', '"A","B ""x"", y"\n1,2\n', ['"A"', '"B ""x"", y"'], '1,2\n'],
  ['a quoted header name with a line break', '"A\nB",C\n1,2\n', ['"A\nB"', 'C'], '1,2\n'],
  ['empty header names', 'A,,""\n1,2,3\n', ['A', '', '""'], '1,2,3\n'],
  ['an empty first header name', ',A\n1,2\n', ['', 'A'], '1,2\n'],
  [
    'characters of 2, 3 and 4 bytes',
    'é,B\né,"€😀"\n',
    [Buffer.from('é').toString('latin1'), 'B'],
    Buffer.from('é,"€😀"\n').toString('latin1'),
  ],
];

for (const [name, body, header, records] of good) {
  t.test(`reads ${name}`, async t => {
    t.strictSame(readEveryWay(Buffer.from(body)), { header, records });
  });
}

const strayCr = 'has a carriage return outside quotes';
const unclosed = 'has a quote that is never closed';
const bad: readonly [
  name: string,
  body: string,
  row: number,
  field: number | null,
  message: string,
][] = [
  ['an unclosed quote', 'A,B\n1,2\n3,"4\n5,6\n', 2, 1, unclosed],
  ['an unclosed quote after a doubled one', 'A,B\n1,"2""', 1, 1, unclosed],
  ['an unclosed quote in the header', 'A,"B\n1,2\n', 0, 1, unclosed],
  [
    'a quote inside an unquoted field',
    'A,B\n1,2\n3,4"5"\n',
    2,
    1,
    'has a quote but does not begin with one',
  ],
  ['text after a closing quote', 'A,B\n1,2\n"3"x,4\n', 2, 0, 'has text after its closing quote'],
  ['a space after a closing quote', 'A,B\n"1" ,2\n', 1, 0, 'has text after its closing quote'],
  ['a lone CR', 'A,B\n1,2\n3\r4,5\n', 2, 0, strayCr],
  ['a lone CR at the end', 'A,B\n1,2\r', 1, 1, strayCr],
  ['a lone CR after a quote at the end', 'A,B\n1,"2"\r', 1, 1, strayCr],
  ['CR alone as line break', 'A,B\r1,2\r', 0, 1, strayCr],
  ['CR CR LF', 'A,B\n1,2\r\r\n', 1, 1, strayCr],
  ['a lone CR after a closing quote', 'A,B\n"1"\rx,2\n', 1, 0, strayCr],
];

for (const [name, body, row, field, message] of bad) {
  t.test(`refuses ${name}`, async t => {
    t.strictSame(readEveryWay(Buffer.from(body)), { row, field, message });
  });
}

t.test('reads an empty body and an empty first line', async t => {
  t.strictSame(readEveryWay(Buffer.alloc(0)), { header: [], records: '' });
  t.strictSame(readEveryWay(Buffer.from('\nx\n')), { header: [''], records: 'x\n' });
});

t.test('refuses an endless record and an endless header at their limit', async t => {
  const piece = Buffer.alloc(64 * 1024, 'x');
  for (const [start, row, message, limit] of [
    ['A,B\n1,2\n3,"', 2, 'is longer than 1 MiB', maxRecordBytes],
    ['A,B\n1,2\n3,', 2, 'is longer than 1 MiB', maxRecordBytes],
    ['A,"', 0, 'is longer than 8 KiB', maxHeaderBytes],
    ['A,', 0, 'is longer than 8 KiB', maxHeaderBytes],
  ] as const) {
    const scan = createCsvScanner(() => {});
    scan(Buffer.from(start), false);
    let sent = 0;
    t.throws(
      () => {
        while (sent <= limit + piece.length) {
          sent += piece.length;
          scan(piece, false);
        }
      },
      { row, field: null, message },
      start,
    );
    t.ok(sent <= limit + piece.length, `${start}: stopped after ${sent} bytes`);
  }
});

t.test('reads a record of exactly the allowed length, whole and in pieces', async t => {
  const start = 'A,B\n1,2\n3,';
  const field = 'x'.repeat(maxRecordBytes - '3,\n'.length);
  const body = Buffer.from(`${start}${field}\n5,6\n`);
  const pieces: Buffer[] = [];
  for (let at = 0; at < body.length; at += 10_007) pieces.push(body.subarray(at, at + 10_007));
  for (const chunks of [[body], pieces]) t.ok('records' in read(chunks));
  const longer = Buffer.from(`${start}${field}xx\n5,6\n`);
  t.strictSame(read([longer]), { row: 2, field: null, message: 'is longer than 1 MiB' });
});

t.test('counts fields beyond the maximum of columns and keeps the first ones', async t => {
  let count = 0;
  let last = 0;
  const scan = createCsvScanner(({ row, fieldCount, to }) => {
    if (row === 1) [count, last] = [fieldCount, to[63] ?? 0];
  });
  scan(Buffer.from(`A\n${','.repeat(500_000)}\n`), true);
  t.strictSame([count, last], [500_001, 65]);
});
