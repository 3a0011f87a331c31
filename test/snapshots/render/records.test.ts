import fc from 'fast-check';
import t from 'tap';
import { cutRecords, replaceDates } from '../../../src/snapshots/render/records.ts';
import { seed } from '../../helpers/scale.ts';

const field = fc.oneof(
  fc.constantFrom(
    '',
    '2026-03-01',
    ',2026-03-01,',
    'a"b',
    'line\nbreak',
    '\r\n',
    'Acme, Inc.',
    '"',
  ),
  fc.string({ maxLength: 12 }),
);
const csvField = (text: string) =>
  /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
const record = (date: string) => (fields: readonly string[]) =>
  [...fields.slice(0, 4), date, ...fields.slice(4)].map(csvField).join(',').concat('\n');
const records = fc.array(fc.array(field, { minLength: 6, maxLength: 9 }), { maxLength: 30 });

async function* inPieces(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function collect(pieces: AsyncIterable<Buffer>): Promise<Buffer[]> {
  const found: Buffer[] = [];
  for await (const piece of pieces) found.push(piece);
  return found;
}

/** Cuts a known list of records, without searching for their ends. */
function expectedCuts(lines: readonly string[], leastBytes: number): Buffer[] {
  const cuts: Buffer[] = [];
  let piece = Buffer.alloc(0);
  for (const line of lines) {
    piece = Buffer.concat([piece, Buffer.from(line)]);
    if (piece.length < leastBytes) continue;
    cuts.push(piece);
    piece = Buffer.alloc(0);
  }
  return piece.length > 0 ? [...cuts, piece] : cuts;
}

t.test('cuts at record ends for any size of the incoming pieces', async t => {
  await fc.assert(
    fc.asyncProperty(
      records,
      fc.integer({ min: 1, max: 300 }),
      fc.integer({ min: 1, max: 200 }),
      async (rows, leastBytes, size) => {
        const lines = rows.map(record('2026-03-01'));
        const bytes = Buffer.from(lines.join(''));
        const cuts = await collect(cutRecords(inPieces(bytes, size), leastBytes));
        t.strictSame(cuts.map(String), expectedCuts(lines, leastBytes).map(String));
      },
    ),
    { seed },
  );
});

t.test('replaces the Date field of every record and nothing else', async t => {
  fc.assert(
    fc.property(records, rows => {
      const before = Buffer.from(rows.map(record('2026-03-01')).join(''));
      const after = rows.map(record('2026-12-31')).join('');
      t.equal(replaceDates(before, '2026-03-01', '2026-12-31').toString(), after);
    }),
    { seed },
  );
});

t.test('refuses a record that shows another date', async t => {
  const bytes = Buffer.from(record('2026-03-02')(['c1', 'Acme', 'Export', 'f1', 'x', 'y']));
  t.throws(() => replaceDates(bytes, '2026-03-01', '2026-03-03'), /another date/);
});
