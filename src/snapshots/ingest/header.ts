import { maxColumns } from '../../shared/csv-scanner.ts';
import { type Column, columns, storedColumns } from '../columns.ts';
import { FieldErrors } from './field-errors.ts';

/** First bytes of formats that callers send instead of CSV by mistake. */
const signatures: readonly (readonly [bytes: readonly number[], message: string])[] = [
  [[0x1f, 0x8b], 'gzip: send the header Content-Encoding: gzip'],
  [[0x50, 0x4b, 0x03, 0x04], 'a zip or Excel file: send CSV, plain or as gzip'],
  [[0x50, 0x4b, 0x05, 0x06], 'an empty zip file: send CSV, plain or as gzip'],
  [[0x28, 0xb5, 0x2f, 0xfd], 'zstd: send CSV, plain or as gzip'],
  [[0xfd, 0x37, 0x7a, 0x58, 0x5a], 'xz: send CSV, plain or as gzip'],
  [[0x42, 0x5a, 0x68], 'bzip2: send CSV, plain or as gzip'],
  [[0x50, 0x41, 0x52, 0x31], 'Parquet: send CSV'],
  [[0xff, 0xfe, 0x00, 0x00], 'UTF-32: send UTF-8'],
  [[0x00, 0x00, 0xfe, 0xff], 'UTF-32: send UTF-8'],
  [[0xff, 0xfe], 'UTF-16: send UTF-8'],
  [[0xfe, 0xff], 'UTF-16: send UTF-8'],
];

const byteOrderMark = Buffer.from('\uFEFF');
/** Longest name of an unknown column that an error shows, in characters. */
const maxShownName = 200;

/**
 * Removes a byte order mark from the start of a body.
 * @throws AppError `snapshot_invalid` if the body is clearly not CSV in UTF-8
 */
export function requireUtf8Csv(start: Buffer): Buffer {
  const errors = new FieldErrors();
  const format = formatOf(start);
  if (format !== null) errors.add(0, null, `looks like ${format}`);
  errors.throwIfAny();
  const hasMark = start.subarray(0, byteOrderMark.length).equals(byteOrderMark);
  return hasMark ? start.subarray(byteOrderMark.length) : start;
}

function formatOf(start: Buffer): string | null {
  const known = signatures.find(([bytes]) => bytes.every((byte, index) => start[index] === byte));
  if (known !== undefined) return known[1];
  // The header is ASCII. In UTF-16 every other byte of ASCII text is zero.
  const zeros = Array.from({ length: 4 }, (_, index) => (start[index] === 0 ? 1 : 0)).join('');
  return zeros === '1010' || zeros === '0101' ? 'UTF-16: send UTF-8' : null;
}

/**
 * Returns the column of each field of the body. Columns may have any order. Date and the label
 * columns may be absent.
 *
 * @throws AppError `snapshot_invalid` that names every unknown, repeated and missing column
 */
export function matchHeader(names: readonly string[]): Column[] {
  const errors = new FieldErrors();
  if (names.length > maxColumns) errors.add(0, null, `has more than ${maxColumns} columns`);
  const known = new Map(columns.map(column => [column.header, column]));
  const seen = new Set<string>();
  const found: Column[] = [];
  for (const name of names.slice(0, maxColumns)) {
    const column = known.get(name);
    const shown = name.slice(0, maxShownName);
    if (column === undefined) errors.add(0, shown, 'is not a column of the data model');
    else if (seen.has(name)) errors.add(0, shown, 'stands twice in the header');
    else found.push(column);
    seen.add(name);
  }
  for (const { header } of storedColumns) {
    if (!seen.has(header)) errors.add(0, header, 'is missing from the header');
  }
  errors.throwIfAny();
  return found;
}
