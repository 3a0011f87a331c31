import { Readable } from 'node:stream';
import t from 'tap';
import { AppError } from '../../../src/shared/errors.ts';
import { maxRecordBytes } from '../../../src/snapshots/ingest/csv-scanner.ts';
import { openCsv } from '../../../src/snapshots/ingest/open-csv.ts';
import { joinSmall } from '../../../src/snapshots/ingest/read-body.ts';
import type { RowFault } from '../../../src/snapshots/ingest/snapshot-invalid.ts';

type Read = { header: readonly string[]; records: string } | { faults: readonly RowFault[] };

async function read(chunks: readonly Buffer[]): Promise<Read> {
  try {
    const csv = await openCsv(
      (async function* () {
        yield* chunks;
      })(),
    );
    const records: Buffer[] = [];
    // Copied at once: what is handed on may not be a view of memory that changes.
    for await (const piece of csv.records()) records.push(Buffer.from(piece));
    return { header: csv.header, records: Buffer.concat(records).toString('latin1') };
  } catch (error) {
    if (!(error instanceof AppError) || error.code !== 'snapshot_invalid') throw error;
    return { faults: error.members['errors'] as RowFault[] };
  }
}

/** Whole, byte by byte, with empty chunks between, and in every two pieces: always the same. */
async function readEveryWay(body: Buffer): Promise<Read> {
  const whole = await read([body]);
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
    const got = JSON.stringify(await read(chunks));
    if (got !== JSON.stringify(whole))
      throw new Error(`${way}: ${got} where whole: ${JSON.stringify(whole)}`);
  }
  return whole;
}

const bom = '\ufeff';
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
  ['quoted header names', '"A","B ""x"", y"\n1,2\n', ['A', 'B "x", y'], '1,2\n'],
  ['a quoted header name with a line break', '"A\nB",C\n1,2\n', ['A\nB', 'C'], '1,2\n'],
  ['empty header names', 'A,,""\n1,2,3\n', ['A', '', ''], '1,2,3\n'],
  ['an empty first header name', ',A\n1,2\n', ['', 'A'], '1,2\n'],
  ['a BOM', `${bom}A,B\n1,2\n`, ['A', 'B'], '1,2\n'],
  ['a BOM before a quote', `${bom}"A",B\n1,2\n`, ['A', 'B'], '1,2\n'],
  ['a second BOM is data', `${bom}${bom}A,B\n1,2\n`, [`${bom}A`, 'B'], '1,2\n'],
  [
    'a BOM inside is data',
    `A,B\n${bom}1,2\n`,
    ['A', 'B'],
    Buffer.from(`${bom}1,2\n`).toString('latin1'),
  ],
  [
    'characters of 2, 3 and 4 bytes',
    'é,B\né,"€😀"\n',
    ['é', 'B'],
    Buffer.from('é,"€😀"\n').toString('latin1'),
  ],
];

for (const [name, body, header, records] of good) {
  t.test(name, async t => {
    t.strictSame(await readEveryWay(Buffer.from(body)), { header, records });
  });
}

const bytes = (...parts: (string | number)[]) =>
  Buffer.concat(
    parts.map(part => (typeof part === 'string' ? Buffer.from(part) : Buffer.from([part]))),
  );

const notUtf8 = 'is not valid UTF-8';
const strayCr = 'has a carriage return outside quotes';
const bad: readonly [
  name: string,
  body: Buffer,
  row: number,
  column: string | null,
  message: string,
][] = [
  ['a short row', bytes('A,B\n1,2\n3\n5,6\n'), 2, null, 'has 1 field where the header has 2'],
  ['a long row', bytes('A,B\n1,2\n3,4,5\n'), 2, null, 'has 3 fields where the header has 2'],
  [
    'a short last row without a line break',
    bytes('A,B\n1,2\n3'),
    2,
    null,
    'has 1 field where the header has 2',
  ],
  ['an empty line', bytes('A,B\n1,2\n\n3,4\n'), 2, null, 'has 1 field where the header has 2'],
  [
    'an empty line at the end',
    bytes('A,B\n1,2\n\n'),
    2,
    null,
    'has 1 field where the header has 2',
  ],
  ['an unclosed quote', bytes('A,B\n1,2\n3,"4\n5,6\n'), 2, 'B', 'has a quote that is never closed'],
  [
    'an unclosed quote in the header',
    bytes('A,"B\n1,2\n'),
    0,
    null,
    'has a quote that is never closed',
  ],
  [
    'a quote inside an unquoted field',
    bytes('A,B\n1,2\n3,4"5"\n'),
    2,
    'B',
    'has a quote but does not begin with one',
  ],
  [
    'text after a closing quote',
    bytes('A,B\n1,2\n"3"x,4\n'),
    2,
    'A',
    'has text after its closing quote',
  ],
  [
    'a space after a closing quote',
    bytes('A,B\n"1" ,2\n'),
    1,
    'A',
    'has text after its closing quote',
  ],
  ['a lone CR', bytes('A,B\n1,2\n3\r4,5\n'), 2, 'A', strayCr],
  ['a lone CR at the end', bytes('A,B\n1,2\r'), 1, 'B', strayCr],
  ['CR alone as line break', bytes('A,B\r1,2\r'), 0, null, strayCr],
  ['CR CR LF', bytes('A,B\n1,2\r\r\n'), 1, 'B', strayCr],
  ['a lone CR after a closing quote', bytes('A,B\n"1"\rx,2\n'), 1, 'A', strayCr],
  ['NUL', bytes('A,B\n1,2\n3,4', 0, '\n'), 2, 'B', 'has a NUL byte'],
  ['NUL inside quotes', bytes('A,B\n1,2\n"3\n', 0, '",4\n'), 2, 'A', 'has a NUL byte'],
  ['NUL in the header', bytes('A,B', 0, '\n1,2\n'), 0, null, 'has a NUL byte'],
  ['bad UTF-8', bytes('A,B\n1,2\n3,x', 0xff, '\n'), 2, 'B', notUtf8],
  ['bad UTF-8 inside quotes', bytes('A,B\n1,2\n"3\n', 0xc3, '",4\n'), 2, 'A', notUtf8],
  ['a cut character before a comma', bytes('A,B\n1,2\n3', 0xe2, 0x82, ',4\n'), 2, 'A', notUtf8],
  ['a cut character at the end', bytes('A,B\n1,2\n3,4', 0xf0, 0x9f, 0x98), 2, 'B', notUtf8],
  ['a surrogate', bytes('A,B\n1,', 0xed, 0xa0, 0x80, '\n'), 1, 'B', notUtf8],
  ['bad UTF-8 in the header', bytes('A,', 0xff, '\n1,2\n'), 0, null, notUtf8],
  ['half a BOM', bytes(0xef, 0xbb, 'A,B\n1,2\n'), 0, null, notUtf8],
  ['UTF-16', Buffer.from('\ufeffA,B\n1,2\n', 'utf16le'), 0, null, 'has a NUL byte'],
  ['bad UTF-8 in a row before a short one', bytes('A,B\n1,2\n3,', 0xff, '\n5\n'), 2, 'B', notUtf8],
  [
    'NUL in a row before an unclosed quote',
    bytes('A,B\n1,2\n', 0, ',3\n5,"6\n'),
    2,
    'A',
    'has a NUL byte',
  ],
];

for (const [name, body, row, column, message] of bad) {
  t.test(name, async t => {
    t.strictSame(await readEveryWay(body), { faults: [{ row, column, message }] });
  });
}

t.test('an empty body and an empty first line name no columns', async t => {
  t.strictSame(await readEveryWay(Buffer.alloc(0)), { header: [], records: '' });
  t.strictSame(await readEveryWay(Buffer.from(bom)), { header: [], records: '' });
  t.strictSame((await openCsv(Readable.from([Buffer.from('\nx\n')]))).header, []);
});

t.test('a quote that nobody closes does not grow without end', async t => {
  const chunk = Buffer.alloc(64 * 1024, 'x');
  for (const start of ['A,B\n1,2\n3,"', 'A,B\n1,2\n3,', 'A,"', 'A,']) {
    let sent = 0;
    const csv = (async () => {
      const opened = await openCsv(
        (async function* () {
          yield Buffer.from(start);
          while (true) {
            sent += chunk.length;
            yield chunk;
          }
        })(),
      );
      for await (const _piece of opened.records());
    })();
    await t.rejects(csv, { code: 'snapshot_invalid' }, start);
    t.ok(sent <= maxRecordBytes + 3 * chunk.length, `${start}: stopped after ${sent} bytes`);
  }
});

t.test('a long record that comes in single bytes costs no more than its length', async t => {
  const body = Buffer.from(`A,B\n1,"${'x'.repeat(400_000)}"\n`);
  const before = process.cpuUsage();
  const read = openCsv(joinSmall(Readable.from(Array.from(body, byte => Buffer.from([byte])))));
  let length = 0;
  for await (const piece of (await read).records()) length += piece.length;
  t.equal(length, body.length - 'A,B\n'.length);
  // To look at it from its beginning with each byte takes minutes.
  t.ok(process.cpuUsage(before).user < 10_000_000);
});

t.test('a record just as long as allowed, in one chunk and in many', async t => {
  const start = 'A,B\n1,2\n3,';
  const field = 'x'.repeat(maxRecordBytes - '3,\n'.length);
  const body = Buffer.from(`${start}${field}\n5,6\n`);
  const pieces: Buffer[] = [];
  for (let at = 0; at < body.length; at += 10_007) pieces.push(body.subarray(at, at + 10_007));
  for (const chunks of [[body], pieces]) t.ok('records' in (await read(chunks)));
  const longer = Buffer.from(`${start}${field}xx\n5,6\n`);
  t.strictSame(await read([longer]), {
    faults: [{ row: 2, column: null, message: 'is longer than 1 MiB' }],
  });
});
