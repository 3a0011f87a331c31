import { maxColumns } from '../../shared/csv-scanner.ts';
import { type Column, columns, isStored } from '../columns.ts';
import { FieldErrors } from './field-errors.ts';

/** First bytes in hexadecimal of formats that callers send instead of CSV by mistake. */
const formats: readonly (readonly [start: RegExp, message: string])[] = [
  [/^1f8b/, 'gzip: send the header Content-Encoding: gzip'],
  [/^504b0304/, 'a zip or Excel file: send CSV, plain or as gzip'],
  [/^504b0506/, 'an empty zip file: send CSV, plain or as gzip'],
  [/^28b52ffd/, 'zstd: send CSV, plain or as gzip'],
  [/^fd377a585a/, 'xz: send CSV, plain or as gzip'],
  [/^425a68/, 'bzip2: send CSV, plain or as gzip'],
  [/^50415231/, 'Parquet: send CSV'],
  [/^(fffe0000|0000feff)/, 'UTF-32: send UTF-8'],
  [/^(fffe|feff)/, 'UTF-16: send UTF-8'],
  // The header is ASCII. In UTF-16 every other byte of ASCII text is zero.
  [/^(00(?!00)..00(?!00)|(?!00)..00(?!00)..00)/, 'UTF-16: send UTF-8'],
];

const byteOrderMark = 'efbbbf';
/** Longest name of an unknown column that an error shows, in characters. */
const maxShownName = 200;

/**
 * Removes a byte order mark from the start of a body.
 * @throws AppError `snapshot_invalid` if the body is clearly not CSV in UTF-8
 */
export function requireUtf8Csv(start: Buffer): Buffer {
  const errors = new FieldErrors();
  const format = formats.find(([bytes]) => bytes.test(start.toString('hex', 0, 5)));
  if (format !== undefined) errors.add(0, null, `looks like ${format[1]}`);
  errors.throwIfAny();
  return start.toString('hex', 0, 3) === byteOrderMark ? start.subarray(3) : start;
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
    else if (seen.has(name)) errors.add(0, shown, 'is repeated in the header');
    else found.push(column);
    seen.add(name);
  }
  for (const { header } of columns.filter(isStored)) {
    if (!seen.has(header)) errors.add(0, header, 'is missing from the header');
  }
  errors.throwIfAny();
  return found;
}
