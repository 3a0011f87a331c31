import { isUtf8 } from 'node:buffer';
import {
  type CsvRecord,
  createCsvScanner,
  MalformedCsv,
  Quoting,
} from '../../shared/csv-scanner.ts';
import type { Column, StoredColumn } from '../columns.ts';
import { FieldErrors } from './field-errors.ts';
import { matchHeader, requireUtf8Csv } from './header.ts';
import { RowBuffer, rowPrefix } from './row-buffer.ts';
import { createValidation, type Validation } from './validation.ts';

export type RowReader = ReturnType<typeof createRowReader>;

/**
 * Creates a reader of a CSV body. It encodes rows for COPY up to the first error and finds all
 * errors.
 */
export function createRowReader(environmentId: string, date: string) {
  const errors = new FieldErrors();
  const out = new RowBuffer();
  let header: readonly Column[] = [];
  let stored: readonly StoredColumn[] = [];
  let validation: Validation = { fields: [], compareLists() {} };
  let prefix: Buffer = Buffer.alloc(0);
  let isStart = true;
  let rowCount = 0;
  const scan = createCsvScanner(record => {
    if (record.row === 0) readHeader(record);
    else readRow(record);
  });

  function readHeader(record: CsvRecord): void {
    const problem = record.isText ? null : notText(record.bytes, record.start, record.end);
    if (problem !== null) errors.add(0, null, problem);
    errors.throwIfAny();
    header = matchHeader(headerNames(record));
    stored = header.filter(column => column.kind !== 'label' && column.kind !== 'shown-date');
    validation = createValidation(header, date);
    prefix = rowPrefix(environmentId, date, stored.length);
  }

  function readRow(record: CsvRecord): void {
    const { row, bytes, from, to, quoting, fieldCount, isText } = record;
    rowCount = row;
    if (fieldCount !== header.length) {
      const fields = fieldCount === 1 ? '1 field' : `${fieldCount} fields`;
      errors.add(row, null, `has ${fields} where the header has ${header.length}`);
      return;
    }
    out.beginRow(prefix, fieldCount, record.end - record.start);
    for (let index = 0; index < fieldCount; index += 1) {
      const start = from[index] ?? 0;
      const end = to[index] ?? 0;
      let message = validation.fields[index]?.(out, bytes, start, end, quoting[index] ?? 0) ?? null;
      if (!isText) message = notText(bytes, start, end) ?? message;
      if (message !== null) errors.add(row, header[index]?.header ?? null, message);
    }
    validation.compareLists((column, message) => errors.add(row, column, message));
    // Only the rows before the first invalid field are stored.
    if (errors.count > 0) out.discardRow();
  }

  return {
    errors,
    /** True once the header was read and is valid. */
    get hasHeader() {
      return header.length > 0;
    },
    /** Stored columns in the order of the body. */
    get columns() {
      return stored;
    },
    /** Number of rows so far. */
    get rowCount() {
      return rowCount;
    },
    /**
     * Validates the next bytes of the body.
     *
     * @param isLast true for the last call
     * @returns false after malformed CSV: the rest of the body cannot be read
     * @throws AppError `snapshot_invalid` for an invalid header
     */
    read(piece: Buffer, isLast: boolean): boolean {
      try {
        scan(isStart ? requireUtf8Csv(piece) : piece, isLast);
      } catch (error) {
        if (!(error instanceof MalformedCsv)) throw error;
        const column = error.field === null ? null : (header[error.field]?.header ?? null);
        errors.add(error.row, column, error.message);
        if (header.length === 0) errors.throwIfAny();
        return false;
      }
      isStart = false;
      // A body without any line has no columns.
      if (isLast && header.length === 0) matchHeader([]);
      return true;
    },
    /**
     * Returns the rows that were encoded since the last call, in the binary format of COPY.
     *
     * @param isLast true to include the incomplete buffer and the end of the data
     */
    takeEncoded: (isLast: boolean): Buffer[] => out.take(isLast),
  };
}

function headerNames({ bytes, from, to, quoting, fieldCount }: CsvRecord): string[] {
  const names = Array.from({ length: fieldCount }, (_, index) => {
    const name = bytes.toString('utf8', from[index], to[index]);
    return quoting[index] === Quoting.escaped ? name.replaceAll('""', '"') : name;
  });
  // An empty line has one empty field.
  return names.length === 1 && names[0] === '' ? [] : names;
}

function notText(bytes: Buffer, from: number, to: number): string | null {
  const text = bytes.subarray(from, to);
  if (text.includes(0)) return 'has a NUL byte';
  return isUtf8(text) ? null : 'is not valid UTF-8';
}
