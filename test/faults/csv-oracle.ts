/** Reads a snapshot body as docs/file-format.md describes it, without any code of the service. */
import { csvField, exportHeader, ingestColumns } from '../helpers/adoption-rows.ts';
import { instantMs } from '../helpers/instant-ms.ts';

type Field = string | null;

const labels = {
  stars: ['', 'never', 'tried', 'retained', 'churned'],
  frequency: ['never', 'monthly', 'weekly', 'daily'],
  satisfaction: ['', 'very dissatisfied', 'dissatisfied', 'neutral', 'satisfied', 'very satisfied'],
};

/**
 * @param date of the snapshot
 * @param shown date under which the file shows it
 * @returns the file, or null if the body has to be refused
 */
export function fileOf(body: Buffer, date: string, shown: string): string | null {
  const text = decode(body);
  const records = text === null ? null : readRecords(text);
  const [header, ...rows] = records ?? [];
  if (header === undefined || !isHeader(header)) return null;
  const seen = new Set<string>();
  const lines: { readonly key: readonly Buffer[]; readonly line: string }[] = [];
  for (const row of rows) {
    if (row.length !== header.length) return null;
    const fields = new Map(header.map((name, index) => [name ?? '', row[index] ?? null]));
    const named = fields.get('Date') ?? '';
    const line = named === '' || named === date ? lineOf(fields, shown) : null;
    const ids = [fields.get('Company ID') ?? '', fields.get('Feature ID') ?? ''];
    const key = JSON.stringify(ids);
    if (line === null || seen.has(key)) return null;
    seen.add(key);
    lines.push({ key: ids.map(id => Buffer.from(id)), line });
  }
  lines.sort(
    ({ key: [a = none, b = none] }, { key: [c = none, d = none] }) =>
      Buffer.compare(a, c) || Buffer.compare(b, d),
  );
  return exportHeader + lines.map(({ line }) => line).join('');
}

const none = Buffer.alloc(0);

function decode(body: Buffer): string | null {
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
      .decode(body)
      .replace(/^\ufeff/, '');
    return text.includes('\u0000') ? null : text;
  } catch {
    return null;
  }
}

function isHeader(header: readonly Field[]): boolean {
  const known = new Set<Field>(exportHeader.trimEnd().split(','));
  return (
    new Set(header).size === header.length &&
    header.every(name => known.has(name)) &&
    ingestColumns.every(name => header.includes(name))
  );
}

/**
 * Parses RFC 4180 with LF or CRLF and an optional last line break. Returns null if the text is
 * malformed.
 */
function readRecords(text: string): Field[][] | null {
  const records: Field[][] = [];
  const pattern = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/y;
  let record: Field[] = [];
  for (let at = 0; ; ) {
    // The end of the text after a line break ends the file. After a comma it is an empty field.
    if (at === text.length && record.length === 0) return records;
    pattern.lastIndex = at;
    const match = pattern.exec(text);
    if (match === null) return null;
    const [whole, inQuotes, plain, end] = match;
    record.push(inQuotes === undefined ? plain || null : inQuotes.replaceAll('""', '"'));
    at += whole.length;
    if (end === ',') continue;
    records.push(record);
    record = [];
    if (end === '') return records;
  }
}

/** Returns the row as an exported line, or null if the row is invalid. */
function lineOf(fields: ReadonlyMap<string, Field>, date: string): string | null {
  const field = (name: string): Field => fields.get(name) ?? null;
  const id = (name: string) => {
    const text = field(name);
    return text === null || text === '' || Buffer.byteLength(text) > 1024 ? undefined : text;
  };
  const instant = (name: string, isNullable: boolean): Field | undefined => {
    const text = field(name);
    if (text === null) return isNullable ? null : undefined;
    const ms = instantMs(text);
    return ms === null ? undefined : new Date(ms).toISOString();
  };
  const fitting = (name: string, pattern: RegExp) => {
    const text = field(name);
    return text !== null && pattern.test(text) ? text : undefined;
  };
  const stars = fitting('STARS State', /^[1-4]$/);
  const frequency = fitting('Frequency', /^[0-3]$/);
  const satisfaction = field('Satisfaction') === null ? null : fitting('Satisfaction', /^[1-5]$/);
  const values: (Field | undefined)[] = [
    id('Company ID'),
    field('Company Name'),
    field('Feature Name') ?? undefined,
    id('Feature ID'),
    date,
    instant('First Seen', false),
    instant('Last Seen', false),
    instant('First Used', true),
    instant('Last Used', true),
    labels.stars[Number(stars)],
    stars,
    labels.frequency[Number(frequency)],
    frequency,
    satisfaction === null ? 'not rated' : labels.satisfaction[Number(satisfaction)],
    satisfaction,
    fitting('Feedback Count', /^(0|[1-9]\d{0,17})$/),
    ...lists(field('Segment Names') ?? '', field('Segment IDs') ?? ''),
  ];
  if (values.includes(undefined)) return null;
  return `${values.map(value => csvField(value ?? null)).join(',')}\n`;
}

/** Returns both lists as they are if they have equally many items. */
function lists(names: string, ids: string): [Field | undefined, Field | undefined] {
  const [nameCount, idCount] = [items(names)?.length, items(ids)?.length];
  const isPair = nameCount === idCount || (names === '' && idCount === 1);
  const isRight = nameCount !== undefined && idCount !== undefined && isPair;
  return isRight && !items(ids)?.some(item => item.includes(','))
    ? [names, ids]
    : [undefined, undefined];
}

function items(text: string): string[] | null {
  if (text === '') return [];
  const found: string[] = [];
  const pattern = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|$)/y;
  for (;;) {
    const match = pattern.exec(text);
    if (match === null) return null;
    found.push(match[1]?.replaceAll('""', '"') ?? match[2] ?? '');
    if (match[3] === '') return pattern.lastIndex === text.length ? found : null;
  }
}
