import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
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
import { scaled, seed } from '../../helpers/scale.ts';

const app = await startTestApp(t);
await app.putEnvironment('acme', 'pro');
const date = '2026-03-02';
const header = `${ingestColumns.join(',')}\n`;
// Tests replace this snapshot.
await app.ingest('acme', date, header);

/** Returns the line of a row with raw CSV in one field. */
const lineWith = (column: IngestColumn, raw: string, id = 'c1') =>
  ingestLine(adoptionRow({ companyId: id }), { [column]: raw });

/** Ingests a body. Returns the exported values of one column, or the errors of a refused body. */
async function put(body: string, column: IngestColumn) {
  const answer = await app.ingest('acme', date, body);
  if (answer.status === 422)
    return { errors: answer.json.errors, errorCount: answer.json.errorCount };
  if (answer.status !== 200 && answer.status !== 201) throw new Error(answer.text);
  const [names = [], ...rows] = parseCsv((await app.download('acme', 'today')).text);
  return rows.map(row => row[names.indexOf(column)]);
}

const instantFault =
  'is not an ISO-8601 instant with Z or an offset, such as 2026-01-02T03:04:05.678Z';
const noDay = 'is not a day of the calendar';
const outside = 'is outside the years 0001 to 9999';
const emptyFault = 'is an empty string; for null leave the field empty, without quotes';

const goodInstants: readonly [text: string, shown: string][] = [
  ['2026-01-02T03:04:05.678Z', '2026-01-02T03:04:05.678Z'],
  ['2026-01-02T03:04:05Z', '2026-01-02T03:04:05.000Z'],
  ['2026-01-02T03:04Z', '2026-01-02T03:04:00.000Z'],
  ['2026-01-02', '2026-01-02T00:00:00.000Z'],
  ['2026-01-02T03:04:05+02:00', '2026-01-02T01:04:05.000Z'],
  ['2026-01-02T03:04:05+0200', '2026-01-02T01:04:05.000Z'],
  ['2026-01-02T03:04:05+02', '2026-01-02T01:04:05.000Z'],
  ['2026-01-02T03:04-05:30', '2026-01-02T08:34:00.000Z'],
  ['2026-01-02T03:04:05.678+05:45', '2026-01-01T21:19:05.678Z'],
  ['2026-01-02T03:04:05.678-0000', '2026-01-02T03:04:05.678Z'],
  ['2026-01-02T00:00:00+14:00', '2026-01-01T10:00:00.000Z'],
  ['2026-01-02T00:00:00-12:00', '2026-01-02T12:00:00.000Z'],
  ['2026-01-02T03:04:05.6Z', '2026-01-02T03:04:05.600Z'],
  ['2026-01-02T03:04:05.67Z', '2026-01-02T03:04:05.670Z'],
  ['2026-01-02T03:04:05.6789Z', '2026-01-02T03:04:05.678Z'],
  ['2026-01-02T03:04:05.67899Z', '2026-01-02T03:04:05.678Z'],
  ['2026-01-02T03:04:05.678999Z', '2026-01-02T03:04:05.678Z'],
  ['2026-01-02T03:04:05.6789999Z', '2026-01-02T03:04:05.678Z'],
  ['2026-01-02T03:04:05.67899999Z', '2026-01-02T03:04:05.678Z'],
  ['2026-01-02T03:04:05.678999999Z', '2026-01-02T03:04:05.678Z'],
  ['2026-01-02T23:59:59.9999999Z', '2026-01-02T23:59:59.999Z'],
  ['2026-01-02T23:59:59.9999+01', '2026-01-02T22:59:59.999Z'],
  ['2026-12-31T23:59:59.999999999Z', '2026-12-31T23:59:59.999Z'],
  ['2024-02-29', '2024-02-29T00:00:00.000Z'],
  ['2000-02-29T12:00Z', '2000-02-29T12:00:00.000Z'],
  ['0001-01-01T00:00:00.000Z', '0001-01-01T00:00:00.000Z'],
  ['0001-01-01', '0001-01-01T00:00:00.000Z'],
  ['1969-12-31T23:59:59.9999Z', '1969-12-31T23:59:59.999Z'],
  ['1800-01-01T00:00:00.0019Z', '1800-01-01T00:00:00.001Z'],
  ['9999-12-31T23:59:59.999Z', '9999-12-31T23:59:59.999Z'],
  ['9999-12-31T23:59:59.9999999Z', '9999-12-31T23:59:59.999Z'],
];

t.test('reads instants with and without quotes', async t => {
  const lines = goodInstants
    .flatMap(([text]) => [text, `"${text}"`])
    .map((raw, index) =>
      ingestLine(adoptionRow({ companyId: `c${String(index).padStart(3, '0')}` }), {
        'First Seen': raw,
        'First Used': raw,
      }),
    );
  t.equal((await app.ingest('acme', date, header + lines.join(''))).status, 200);
  const [names = [], ...rows] = parseCsv((await app.download('acme', 'today')).text);
  t.equal(rows.length, 2 * goodInstants.length);
  for (const [index, [text, shown]] of goodInstants.entries()) {
    for (const column of ['First Seen', 'First Used'] as const) {
      const read = rows.slice(2 * index, 2 * index + 2).map(row => row[names.indexOf(column)]);
      t.strictSame(read, [shown, shown], `${column}: ${text}`);
    }
  }
});

const badInstants: readonly (readonly [text: string, message: string])[] = [
  ['2026-02-30', noDay],
  ['2026-02-29T00:00:00Z', noDay],
  ['2026-02-29T00:00:00.000Z', noDay],
  ['2026-04-31T00:00:00.000Z', noDay],
  ['2100-02-29', noDay],
  ['0000-01-01', noDay],
  ['0000-01-01T00:00:00.000Z', noDay],
  ['0001-01-01T00:00:00+00:01', outside],
  ['0001-01-01T00:00:00.000+15:59', outside],
  ['9999-12-31T23:59:59.999-00:01', outside],
  ['9999-12-31T23:59-15', outside],
  ...[
    '2026-13-01',
    '2026-00-01',
    '2026-01-00',
    '2026-01-32',
    '2026-01-32T00:00:00.000Z',
    '2026-13-01T00:00:00.000Z',
    '2026-01-02T24:00:00Z',
    '2026-01-02T24:00:00.000Z',
    '2026-01-02T23:60:00.000Z',
    '2026-01-02T23:59:60Z',
    '2026-01-02T23:59:60.000Z',
    '2026-01-02T03Z',
    '2026-01-02T03:04:05',
    '2026-01-02T03:04:05.678',
    '2026-01-02T03:04:05.Z',
    '2026-01-02T03:04:05,678Z',
    '2026-01-02T03:04:05.678z',
    '2026-01-02t03:04:05.678Z',
    '2026-01-02 03:04:05.678Z',
    '2026-01-02T03:04:05.678 Z',
    ' 2026-01-02T03:04:05.678Z',
    '2026-01-02T03:04:05.678Z ',
    '2026-01-02T03:04:05.678Z\n',
    '2026-01-02\n',
    '\n2026-01-02',
    '2026-01-02T03:04:05+2',
    '2026-01-02T03:04:05+02:0',
    '2026-01-02T03:04:05+02:60',
    '2026-01-02T03:04:05+16:00',
    '2026-01-02T03:04:05+24:00',
    '2026-01-02T03:04:05+99',
    '2026-01-02T03:04:05+02:00:00',
    '2026-01-02T03:04:05Z+02:00',
    '2026-01-02T03:04:05−02:00',
    '2026-01-02T03:04:05.678UTC',
    '2026-01-02T03:04:05 Europe/Berlin',
    '2026-01-02+02:00',
    '2026-01-02Z',
    '2026-1-2',
    '26-01-02',
    '02026-01-02',
    '+2026-01-02',
    '-2026-01-02',
    '10000-01-01T00:00:00Z',
    '2026-01-02 BC',
    '2026/01/02',
    '20260102',
    '20260102T030405Z',
    '2026-002',
    '2026-W01-5',
    '02.01.2026',
    'now',
    'today',
    'tomorrow',
    'epoch',
    'infinity',
    '-infinity',
    'allballs',
    'null',
    '1767322800',
    '1767322800000',
    'x',
    '=026-01-02T03:04:05.678Z',
    '2026-01-02T03:04:05.6Z8Z',
    '2026-01-02T03:04:05.67\\Z',
    '2026-01-02T03:04:05.678\u00a0',
    '٢٠٢٦-٠١-٠٢T03:04:05.678Z',
    '２０２６-01-02',
    "2026-01-02'; drop table snapshots; --",
    '\\N',
    'x'.repeat(100_000),
  ].map(text => [text, instantFault] as const),
];

t.test('refuses values that are not instants', async t => {
  const columns = ['Last Seen', 'Last Used'] as const;
  // An answer names 20 errors.
  for (let start = 0; start < badInstants.length; start += 10) {
    const group = badInstants.slice(start, start + 10);
    const lines = group.map(([text], index) => {
      const raw = csvField(text);
      return ingestLine(adoptionRow({ companyId: `c${index}` }), {
        'Last Seen': raw,
        'Last Used': raw,
      });
    });
    const { json } = await app.ingest('acme', date, header + lines.join(''));
    t.equal(json.errorCount, 2 * group.length);
    for (const [index, [text, message]] of group.entries()) {
      t.strictSame(
        json.errors.filter(({ row }: { row: number }) => row === index + 1),
        columns.map(column => ({ row: index + 1, column, message })),
        JSON.stringify(text.slice(0, 40)),
      );
    }
  }
});

const notFrom = (min: number, max: number) => `is not a whole number from ${min} to ${max}`;
const missing = 'is missing';
const long = 'is longer than 1024 bytes';
const noList =
  'is not a list: an item with a comma, a quote or a line break must be quoted inside the list';

/** Raw CSV fields that must be refused. */
const badFields: readonly [column: IngestColumn, raw: readonly string[], message: string][] = [
  ['Company ID', ['', '""'], missing],
  ['Feature ID', ['', '""'], missing],
  ['Company ID', ['x'.repeat(1025), 'é'.repeat(513), `"${'""'.repeat(1025)}"`], long],
  ['Feature ID', ['x'.repeat(1025), `${'😀'.repeat(256)}x`], long],
  ['Feature Name', [''], missing],
  ['First Seen', [''], missing],
  ['Last Seen', [''], missing],
  ['First Seen', ['""'], instantFault],
  ['First Used', ['""'], emptyFault],
  ['Last Used', ['""'], emptyFault],
  ['STARS State', [''], missing],
  [
    'STARS State',
    ['""', '0', '5', '-1', '1.0', '01', '+1', '1e0', ' 1', '1 ', 'never', '１', '99999'],
    notFrom(1, 4),
  ],
  ['Frequency', [''], missing],
  ['Frequency', ['""', '4', '-0', '-1', '00', '0.5', 'daily', '0x1', 'true'], notFrom(0, 3)],
  ['Satisfaction', ['""'], emptyFault],
  ['Satisfaction', ['0', '6', '-1', '4.5', '05', 'NaN', 'null', 'NULL'], notFrom(1, 5)],
  ['Feedback Count', [''], missing],
  [
    'Feedback Count',
    [
      '""',
      '-1',
      '1.5',
      '01',
      '+1',
      '1e3',
      '1_000',
      '1000000000000000000',
      '9223372036854775808',
      'many',
      ' 1',
    ],
    'is not a whole number of 0 or more with at most 18 digits',
  ],
  [
    'Segment Names',
    ['"a""b"', '"""a"', '"""a""b"', '"a\nb"', '"a\r"', '"a, ""b"""', '""""'],
    noList,
  ],
  ['Segment IDs', ['"a""b"', '"""a"', '"x\n"'], noList],
];

for (const [column, raws, message] of badFields) {
  t.test(`refuses ${column} that ${message}`, async t => {
    const lines = raws.map((raw, index) => lineWith(column, raw, `c${index}`));
    const { json } = await app.ingest('acme', date, header + lines.join(''));
    for (const [index, raw] of raws.entries()) {
      // An invalid list may cause a second error, because it no longer matches the other list.
      const first = json.errors.find(({ row }: { row: number }) => row === index + 1);
      t.strictSame(first, { row: index + 1, column, message }, raw.slice(0, 40));
    }
  });
}

const lists: readonly [
  names: string,
  ids: string,
  fault: readonly [IngestColumn, string] | null,
][] = [
  ['', '', null],
  ['""', '""', null],
  ['', '""', null],
  ['a', 's1', null],
  ['"a,b"', '"s1,s2"', null],
  ['"""a,b"""', 's1', null],
  ['"""a,b"",c"', '"s1,s2"', null],
  ['"""a""""b"",c"', '"s1,s2"', null],
  ['"""a\r\nb"""', 's1', null],
  ['","', '"s1,s2"', null],
  ['""', 's1', null],
  ['""""""', 's1', null],
  ['a', '"""s1"""', null],
  ['a', '', ['Segment IDs', 'has 0 items where Segment Names has 1']],
  ['a', '"s1,s2"', ['Segment IDs', 'has 2 items where Segment Names has 1']],
  ['"a,b"', 's1', ['Segment IDs', 'has 1 item where Segment Names has 2']],
  ['"""a,b"""', '"s1,s2"', ['Segment IDs', 'has 2 items where Segment Names has 1']],
  ['a', '"""s1,s2"""', ['Segment IDs', 'has an ID with a comma']],
  ['"a,b"', '"s1,""s2,s3"""', ['Segment IDs', 'has an ID with a comma']],
];

t.test('validates each segment list and compares the two lists', async t => {
  const bodyOf = (rows: typeof lists) =>
    header +
    rows
      .map(([names, ids], index) =>
        ingestLine(adoptionRow({ companyId: `c${index + 10}` }), {
          'Segment Names': names,
          'Segment IDs': ids,
        }),
      )
      .join('');
  const valid = lists.filter(([, , fault]) => fault === null);
  t.strictSame(
    await put(bodyOf(valid), 'Segment Names'),
    valid.map(([names]) => parseCsv(`${names}\n`)[0]?.[0] ?? ''),
  );
  const invalid = lists.filter(([, , fault]) => fault !== null);
  t.strictSame(await put(bodyOf(invalid), 'Segment Names'), {
    errors: invalid.map(([, , fault], index) => ({
      row: index + 1,
      column: fault?.[0],
      message: fault?.[1],
    })),
    errorCount: invalid.length,
  });
});

const duplicate = 'occurs with the same Feature ID in an earlier row';

t.test('names the first row that repeats a company and a feature', async t => {
  const line = (companyId: string, featureId: string) =>
    ingestLine(adoptionRow({ companyId, featureId }));
  const body =
    header +
    line('a', 'f') +
    line('b', 'f') +
    line('a', 'g') +
    line('a', 'f') +
    line('A', 'f') +
    line('a', 'f');
  t.strictSame(await put(body, 'Company ID'), {
    errors: [{ row: 4, column: 'Company ID', message: duplicate }],
    errorCount: 1,
  });
  // These ids differ in bytes.
  const distinct =
    header + line('\u00e9', 'f') + line('e\u0301', 'f') + line('a ', 'f') + line('a', 'f');
  t.equal((await app.ingest('acme', date, distinct)).status, 200);
});

t.test('names the first 20 errors in the order of the body and counts all', async t => {
  const lines = Array.from({ length: 500 }, (_, index) =>
    index % 2 === 0
      ? lineWith('Frequency', '9', `c${index}`)
      : ingestLine(adoptionRow({ companyId: `c${index}` }), {
          'First Seen': 'x',
          Satisfaction: '9',
        }),
  );
  const answer = await app.ingest('acme', date, header + lines.join(''));
  t.equal(answer.status, 422);
  t.equal(answer.json.code, 'snapshot_invalid');
  t.equal(answer.json.errorCount, 750);
  const expected = Array.from({ length: 14 }, (_, index) =>
    index % 2 === 0
      ? [{ row: index + 1, column: 'Frequency', message: notFrom(0, 3) }]
      : [
          { row: index + 1, column: 'First Seen', message: instantFault },
          { row: index + 1, column: 'Satisfaction', message: notFrom(1, 5) },
        ],
  );
  t.strictSame(answer.json.errors, expected.flat().slice(0, 20));
});

t.test('numbers errors by records, not by lines', async t => {
  const body =
    header + lineWith('Company Name', '"a\nb\r\nc"', 'c1') + lineWith('Frequency', '7', 'c2');
  t.strictSame(await put(body, 'Frequency'), {
    errors: [{ row: 2, column: 'Frequency', message: notFrom(0, 3) }],
    errorCount: 1,
  });
});

t.test('refuses exactly the random values that an oracle refuses, and shows the rest', async t => {
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
          .tuple(
            fc.constantFrom('+', '-'),
            twoDigits,
            fc.constantFrom('', ':00', ':59', '30', ':60'),
          )
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

  type Field = readonly [column: IngestColumn, text: string | null];

  /** Returns a body with one row for each field. */
  const bodyOf = (fields: readonly Field[]) =>
    header +
    fields
      .map(([column, text], index) => lineWith(column, csvField(text), `c${index + 10}`))
      .join('');

  const field: fc.Arbitrary<Field> = fc
    .constantFrom(...(Object.keys(candidates) as IngestColumn[]))
    .chain(column =>
      fc.tuple(
        fc.constant(column),
        fc.oneof(
          { arbitrary: candidates[column] ?? noise, weight: 12 },
          { arbitrary: fc.constant(null), weight: 1 },
        ),
      ),
    )
    .filter(([, text]) => text?.includes('\u0000') !== true && text?.isWellFormed() !== false);
  let accepted = 0;
  let refused = 0;
  await fc.assert(
    // An answer names 20 errors.
    fc.asyncProperty(fc.array(field, { minLength: 10, maxLength: 20 }), async fields => {
      const bad = fields.flatMap(([column, text], index) =>
        oracle(column, text) === undefined ? [{ row: index + 1, column }] : [],
      );
      const good = fields.filter(([column, text]) => oracle(column, text) !== undefined);
      const { json } = await app.ingest('acme', date, bodyOf(fields));
      const named = (json.errors ?? []).map(({ row, column }: (typeof bad)[number]) => ({
        row,
        column,
      }));
      assert.deepEqual(named, bad);
      const { status, text } = await app.ingest('acme', date, bodyOf(good));
      assert.equal(status, 200, text);
      const [names = [], ...rows] = parseCsv((await app.download('acme', 'today')).text);
      assert.deepEqual(
        good.map(([column], index) => rows[index]?.[names.indexOf(column)]),
        good.map(([column, value]) => oracle(column, value)),
      );
      accepted += good.length;
      refused += bad.length;
    }),
    { numRuns: scaled(140, 25), seed, examples: [[[['First Seen', '2026-02-30']]]] },
  );
  t.ok(accepted > 100 && refused > 100, `${accepted} values accepted, ${refused} refused`);
});
