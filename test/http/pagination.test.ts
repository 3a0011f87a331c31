import t from 'tap';
import {
  isDatePart,
  isIdPart,
  isInstantPart,
  type ListOrder,
  readPage,
} from '../../src/http/pagination.ts';
import { AppError } from '../../src/shared/errors.ts';

const order: ListOrder<string> = { position: id => [id], parts: [isIdPart] };
const letters = 'abcdefghij'.split('');

/** Pages a list in memory, in the order of its letters. */
const fetchLetters = async (page: { after: readonly string[] | null; limit: number }) =>
  letters.filter(letter => letter > (page.after?.[0] ?? '')).slice(0, page.limit);

t.test('returns pages of any size that join to the whole list', async t => {
  for (let limit = 1; limit <= 11; limit += 1) {
    const seen: string[] = [];
    let cursor: string | null = null;
    let pages = 0;
    do {
      const page: { items: string[]; nextCursor: string | null } = await readPage(
        { limit, ...(cursor === null ? {} : { cursor }) },
        order,
        fetchLetters,
      );
      t.ok(page.items.length <= limit);
      seen.push(...page.items);
      cursor = page.nextCursor;
      pages += 1;
    } while (cursor !== null);
    t.strictSame(seen, letters);
    t.equal(pages, Math.ceil(letters.length / limit), 'no empty page at the end');
  }
});

t.test('reads 51 items by default, to know if a page of 50 is the last', async t => {
  await readPage({}, order, async ({ after, limit }) => {
    t.equal(after, null);
    t.equal(limit, 51);
    return [];
  });
});

const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');

t.test('refuses cursors that this list did not issue', async t => {
  const bad = [
    '',
    '%',
    'not base64 at all!',
    '\u0000',
    encode(null),
    encode('a'),
    encode({ 0: 'a', length: 1 }),
    encode([]),
    encode(['a', 'b']),
    encode([1]),
    encode([null]),
    encode([['a']]),
    encode(['a b']),
    encode(["'; drop table snapshots --"]),
    encode(['\u0000']),
    encode(['é']),
    encode(['x'.repeat(65)]),
    Buffer.from('["a"').toString('base64url'),
    Buffer.from([0xff, 0xfe]).toString('base64url'),
  ];
  for (const cursor of bad) {
    await t.rejects(
      readPage({ cursor }, order, async () => t.fail('asked the database') as never),
      new AppError('validation_failed', '/query/cursor is not a cursor of this list'),
      JSON.stringify(cursor),
    );
  }
});

const parts: readonly [
  check: (part: string) => boolean,
  good: readonly string[],
  bad: readonly string[],
][] = [
  [isIdPart, ['a', 'A-_9', 'x'.repeat(64)], ['', ' ', 'a.b', 'é', 'a\n', 'x'.repeat(65)]],
  [
    isDatePart,
    ['2026-03-02', '2024-02-29', '0001-01-01', '9999-12-31'],
    [
      '',
      '2026-02-29',
      '2026-02-30',
      '2026-13-01',
      '2026-00-10',
      '2026-01-00',
      '2026-01-32',
      '0000-01-01',
      '26-01-01',
      '2026-1-1',
      '2026-01-01T00:00:00Z',
      ' 2026-01-01',
      '2026-01-01\n',
      '+02026-01-01',
      '-2026-01-01',
      '10000-01-01',
      '٢٠٢٦-٠١-٠١',
    ],
  ],
  [isInstantPart, ['2026-03-02T00:00:00.000Z'], ['', 'yesterday', '2026-13-01T00:00:00Z']],
];

for (const [check, good, bad] of parts) {
  t.test(`${check.name} accepts only values of a cursor`, async t => {
    for (const part of good) t.ok(check(part), JSON.stringify(part));
    for (const part of bad) t.notOk(check(part), JSON.stringify(part));
  });
}

t.test('refuses instants in a cursor that only Date.parse accepts', async t => {
  // The service writes positions with toISOString. Any other form is forged.
  for (const part of [
    '2026',
    'Mon 2 Mar',
    '1',
    '2026-03-02',
    '+275760-09-13T00:00:00.000Z',
    'Jan 1 9',
  ]) {
    t.notOk(isInstantPart(part), part);
  }
});
