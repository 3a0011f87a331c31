import t from 'tap';
import { AppError } from '../../../src/shared/errors.ts';
import { createRowReader } from '../../../src/snapshots/ingest/read-rows.ts';
import { adoptionRow, ingestBody, ingestColumns, ingestLine } from '../../helpers/adoption-rows.ts';
import { lowestOf } from '../../helpers/lowest-of.ts';

const date = '2026-03-02';
const header = `${ingestColumns.join(',')}\n`;
const pieceBytes = 64 * 1024;

async function* cutAt(body: Buffer, cuts: readonly number[]): AsyncGenerator<Buffer> {
  for (const [index, end] of [...cuts, body.length].entries())
    yield body.subarray(cuts[index - 1] ?? 0, end);
}

/** Returns the errors of a body and what COPY gets, or null for a refused body. */
async function read(body: Buffer, cuts: readonly number[] = []) {
  const reader = createRowReader('acme', date);
  const pieces = reader.read(cutAt(body, cuts), null);
  const encoded: Buffer[] = [];
  try {
    while ((await pieces.next()).done !== true) encoded.push(...reader.takeEncoded(false));
    reader.errors.throwIfAny();
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    return { errors: error.members['errors'] as unknown[], encoded: null };
  }
  return { errors: [], encoded: Buffer.concat([...encoded, ...reader.takeEncoded(true)]) };
}

t.test('encodes the same rows however the body is cut', async t => {
  const body = Buffer.from(
    ingestBody([
      adoptionRow({
        companyName: 'a "b",\r\nc',
        segmentNames: ['x,y', 'z'],
        segmentIds: ['1', '2'],
      }),
      adoptionRow({ companyId: 'ü💥', companyName: null, feedbackCount: 123_456_789_012 }),
    ]),
  );
  const whole = (await read(body)).encoded;
  for (let cut = header.length + 1; cut < body.length; cut += 1) {
    const { encoded } = await read(body, [cut]);
    if (!whole?.equals(encoded ?? Buffer.alloc(0))) throw new Error(`${cut}`);
  }
  t.ok(whole);
});

t.test('names row and column of bytes that are not text, however the body is cut', async t => {
  const row = (raw: string) => ingestLine(adoptionRow(), { 'Company Name': raw });
  for (const [bytes, message] of [
    ['\u0000', 'has a NUL byte'],
    ['\u00ff', 'is not valid UTF-8'],
    ['"\u00c3"', 'is not valid UTF-8'],
    ['\u00f0\u009f\u0098', 'is not valid UTF-8'],
    ['\u00ed\u00a0\u0080', 'is not valid UTF-8'],
  ] as const) {
    const body = Buffer.from(header + row('x') + row(bytes) + row('y'), 'latin1');
    const expected = [{ row: 2, column: 'Company Name', message }];
    for (let cut = header.length + 1; cut <= body.length; cut += 1) {
      const { errors } = await read(body, [cut]);
      if (JSON.stringify(errors) !== JSON.stringify(expected)) {
        throw new Error(`cut at ${cut}: ${JSON.stringify(errors)}`);
      }
    }
  }
  t.pass();
});

t.test('names the invalid fields before a record that is not CSV', async t => {
  const body = `${header}${ingestLine(adoptionRow(), { Frequency: '9' })}x,y\n"z`;
  t.strictSame((await read(Buffer.from(body))).errors, [
    { row: 1, column: 'Frequency', message: 'is not a whole number from 0 to 3' },
    { row: 2, column: null, message: 'has 2 fields where the header has 14' },
    { row: 3, column: 'Company ID', message: 'has a quote that is never closed' },
  ]);
});

const repeated = (text: string) => text.repeat(Math.ceil((1024 * 1024) / text.length));
const line = ingestLine(adoptionRow());
const hostile: readonly (readonly [name: string, body: string])[] = [
  ['commas', repeated(',')],
  ['line breaks', repeated('\n')],
  ['quotes', `"${repeated('""')}"\n`],
  ['empty quoted fields', repeated('"",')],
  ['short rows of bytes that are not text', repeated('\u00ff,\u0000\n')],
  ['fields that are not text', repeated(`${'\u00ff,'.repeat(13)}\u00ff\n`)],
  ['invalid fields', repeated(`${','.repeat(13)}\n`)],
  [
    'one long list',
    ingestLine(adoptionRow(), { 'Segment Names': repeated('a,').slice(0, 1_000_000) }),
  ],
  [
    'one long instant',
    ingestLine(adoptionRow(), { 'First Seen': repeated('1').slice(0, 1_000_000) }),
  ],
  ['rows', repeated(line)],
];

t.test('spends less than 50 ms on each piece of a hostile body', async t => {
  for (const [name, rest] of hostile) {
    const body = Buffer.from(header + rest, 'latin1');
    const worstMs = await lowestOf(3, 50, () => slowestPiece(body));
    t.ok(worstMs < 50, `${name}: ${worstMs.toFixed(1)} ms`);
  }
});

/** Returns the most CPU time of a piece in milliseconds. */
async function slowestPiece(body: Buffer): Promise<number> {
  const reader = createRowReader('acme', date);
  let worst = 0;
  async function* measured() {
    for (let at = 0; at < body.length; at += pieceBytes) {
      const before = process.cpuUsage();
      try {
        yield body.subarray(at, at + pieceBytes);
      } finally {
        const { user, system } = process.cpuUsage(before);
        worst = Math.max(worst, (user + system) / 1000);
      }
    }
  }
  const pieces = reader.read(measured(), null);
  while ((await pieces.next()).done !== true) reader.takeEncoded(false);
  return worst;
}
