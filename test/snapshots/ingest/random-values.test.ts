import fc from 'fast-check';
import t from 'tap';
import { scaled } from '../../faults/scale.ts';
import {
  adoptionRow,
  csvField,
  type IngestColumn,
  ingestColumns,
  ingestLine,
} from '../../helpers/adoption-rows.ts';
import { startTestApp } from '../../helpers/app.ts';
import { parseCsv } from '../../helpers/csv-reader.ts';
import { instantMs } from '../../helpers/instant-ms.ts';

const app = await startTestApp(t);
await app.putEnvironment('acme', 'pro');
const date = '2026-03-02';
const header = `${ingestColumns.join(',')}\n`;

/** Returns the line of a row with raw CSV in one field. */
const lineWith = (column: IngestColumn, raw: string, id: string) =>
  ingestLine(adoptionRow({ companyId: id }), { [column]: raw });

/**
 * Returns the value that an export shows for a field, or undefined for a field to refuse. Null
 * means an empty field without quotes.
 */
function oracle(column: IngestColumn, text: string | null): string | null | undefined {
  switch (column) {
    case 'First Seen':
    case 'Last Used': {
      if (text === null) return column === 'Last Used' ? null : undefined;
      const time = instantMs(text);
      return time === null ? undefined : new Date(time).toISOString();
    }
    case 'STARS State':
      return /^[1-4]$/.test(text ?? '') ? text : undefined;
    case 'Frequency':
      return /^[0-3]$/.test(text ?? '') ? text : undefined;
    case 'Satisfaction':
      return text === null || /^[1-5]$/.test(text) ? text : undefined;
    case 'Feedback Count':
      return /^(0|[1-9]\d{0,17})$/.test(text ?? '') ? text : undefined;
    case 'Feature Name':
      return text === null ? undefined : text;
    default:
      return text;
  }
}

const digit = fc.constantFrom(...'0123456789');
const digits = (minLength: number, maxLength = minLength) =>
  fc.array(digit, { minLength, maxLength }).map(found => found.join(''));
const twoDigits = fc.oneof(
  fc.constantFrom('01', '02', '12', '28', '29', '30', '31', '23', '59', '00'),
  digits(2),
);
/** Texts that are instants or close to instants. */
const instantText = fc
  .tuple(
    fc.oneof(fc.constantFrom('2026', '2024', '0001', '9999', '0000'), digits(4)),
    twoDigits,
    twoDigits,
    fc.constantFrom('T', 'T', 'T', 'T', 't', ' '),
    twoDigits,
    twoDigits,
    fc.option(twoDigits),
    fc.option(digits(1, 9)),
    fc.oneof(
      fc.constantFrom('Z', 'Z', 'Z', '', 'z', '+0000'),
      fc
        .tuple(fc.constantFrom('+', '-'), twoDigits, fc.constantFrom('', ':00', ':59', '30', ':60'))
        .map(x => x.join('')),
    ),
  )
  .map(([year, month, day, t, hour, minute, second, fraction, zone]) => {
    const seconds = second === null ? '' : `:${second}${fraction === null ? '' : `.${fraction}`}`;
    return `${year}-${month}-${day}${t}${hour}:${minute}${seconds}${zone}`;
  });
const noise = fc.oneof(
  fc.string({ maxLength: 6 }),
  fc.string({ unit: 'grapheme', maxLength: 6 }),
  fc.constantFrom('\\.', '\\N', '""', ',', '\n', 'null', "'", '$1', '%s'),
);
/** Returns valid texts with one character changed. */
const mutated = (base: fc.Arbitrary<string>) =>
  fc.tuple(base, fc.nat(), noise).map(([text, at, character]) => {
    const place = at % (text.length + 1);
    return text.slice(0, place) + character.slice(0, 1) + text.slice(place + 1);
  });
const number = fc.oneof(fc.integer({ min: -2, max: 9 }).map(String), digits(1, 20), digits(1));

const candidates: Readonly<Partial<Record<IngestColumn, fc.Arbitrary<string>>>> = {
  'First Seen': fc.oneof(
    instantText,
    instantText,
    mutated(instantText),
    digits(4).map(year => `${year}-02-29`),
    noise,
  ),
  'Last Used': fc.oneof(instantText, instantText, mutated(instantText), noise),
  'STARS State': fc.oneof(number, mutated(number), noise),
  Frequency: fc.oneof(number, noise),
  Satisfaction: fc.oneof(number, noise),
  'Feedback Count': fc.oneof(number, mutated(number), noise),
  'Feature Name': noise,
  'Company Name': noise,
};

t.test('refuses exactly the random values that an oracle refuses, with row and column', async t => {
  const field = fc
    .constantFrom(...(Object.keys(candidates) as IngestColumn[]))
    .chain(column =>
      fc.tuple(
        fc.constant(column),
        fc.oneof(
          { arbitrary: candidates[column] ?? noise, weight: 12 },
          { arbitrary: fc.constant(null), weight: 1 },
        ),
      ),
    );
  const batch = fc.array(
    field.filter(([, text]) => text?.includes('\u0000') !== true && text?.isWellFormed() !== false),
    { minLength: 1, maxLength: 6 },
  );
  let accepted = 0;
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(batch, async fields => {
      const lines = fields.map(([column, text], index) =>
        lineWith(column, csvField(text), `c${String(index).padStart(2, '0')}`),
      );
      const expected = fields.map(([column, text]) => oracle(column, text));
      const bad = fields.flatMap(([column], index) =>
        expected[index] === undefined ? [[index + 1, column]] : [],
      );
      const answer = await app.ingest('acme', date, header + lines.join(''));
      if (bad.length > 0) {
        refused += 1;
        const named = answer.json.errors?.map((error: { row: number; column: string }) => [
          error.row,
          error.column,
        ]);
        if (answer.status !== 422 || JSON.stringify(named) !== JSON.stringify(bad)) {
          throw new Error(`${answer.text}\nwhere ${JSON.stringify(bad)} are invalid`);
        }
        return;
      }
      accepted += 1;
      if (answer.status !== 200 && answer.status !== 201) throw new Error(answer.text);
      const [names = [], ...rows] = parseCsv((await app.download('acme', 'today')).text);
      const shown = fields.map(([column], index) => rows[index]?.[names.indexOf(column)]);
      if (JSON.stringify(shown) !== JSON.stringify(expected)) {
        throw new Error(`shown ${JSON.stringify(shown)} for ${JSON.stringify(expected)}`);
      }
    }),
    { numRuns: scaled(600, 200), examples: [[[['First Seen', '2026-02-30']]]] },
  );
  t.comment(`${accepted} bodies accepted, ${refused} refused`);
  // One body in ten is accepted.
  t.ok(accepted > 3 && refused > 50);
});
