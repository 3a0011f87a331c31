import { columns, type StoredColumn, storedColumns } from '../columns.ts';
import { type RowFault, snapshotInvalid } from './snapshot-invalid.ts';

/** A field of the body, in the body's order: the column it fills, or null for one that is ignored. */
export type HeaderField = StoredColumn | null;

/**
 * Finds the column of every field. The order is free; the label columns and Date may be there and are ignored.
 * @throws AppError `snapshot_invalid` that names every unknown, doubled and missing column
 */
export function matchHeader(header: readonly string[]): HeaderField[] {
  const known = new Set(columns.map(column => column.header));
  const faults: RowFault[] = [];
  const seen = new Set<string>();
  for (const name of header) {
    if (!known.has(name)) faults.push(fault(name, 'is not a column of the data model'));
    else if (seen.has(name)) faults.push(fault(name, 'stands twice in the header'));
    seen.add(name);
  }
  for (const column of storedColumns) {
    if (!seen.has(column.header)) faults.push(fault(column.header, 'is missing from the header'));
  }
  if (faults.length > 0) throw snapshotInvalid(faults.slice(0, 20), faults.length);
  return header.map(name => storedColumns.find(column => column.header === name) ?? null);
}

function fault(name: string, message: string): RowFault {
  return { row: 0, column: name.slice(0, 200), message };
}
