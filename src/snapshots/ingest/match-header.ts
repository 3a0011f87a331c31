import { type Column, columns, storedColumns } from '../columns.ts';
import { maxColumns } from './csv-scanner.ts';
import { createFieldErrors } from './snapshot-invalid.ts';

/** Longest name of an unknown column that an error shows, in characters. */
const maxShownName = 200;

/**
 * Returns the column of each field of the body. Columns may have any order. Date and the label
 * columns may be absent.
 *
 * @throws AppError `snapshot_invalid` that names every unknown, repeated and missing column
 */
export function matchHeader(names: readonly string[]): Column[] {
  const errors = createFieldErrors();
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
