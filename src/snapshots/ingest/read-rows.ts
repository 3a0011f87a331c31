import { isUtf8 } from 'node:buffer';
import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  type CsvRecord,
  createCsvScanner,
  MalformedCsv,
  Quoting,
} from '../../shared/csv-scanner.ts';
import { type Column, columnName, isStored } from '../columns.ts';
import { FieldErrors } from './field-errors.ts';
import { matchHeader, requireUtf8Csv } from './header.ts';
import { RowBuffer } from './row-buffer.ts';
import { compareLists, createLists, type FieldRule, ruleOf } from './validation.ts';

export type RowReader = ReturnType<typeof createRowReader>;

/** Longest time without a turn of the event loop, in milliseconds. */
const turnMs = 2;

/**
 * Creates a reader of a CSV body. It encodes rows for COPY up to the first error and finds all
 * errors.
 */
export function createRowReader(environmentId: string, date: string) {
  const errors = new FieldErrors();
  const lists = createLists();
  let header: readonly Column[] = [];
  let rules: readonly FieldRule[] = [];
  let out = new RowBuffer(environmentId, date, 0);
  let rowCount = 0;
  const scan = createCsvScanner(record => {
    if (record.row === 0) readHeader(record);
    else readRow(record);
  });

  function readHeader(record: CsvRecord): void {
    const problem = notText(record, record.start, record.end);
    if (problem !== null) errors.add(0, null, problem);
    errors.throwIfAny();
    header = matchHeader(headerNames(record));
    rules = header.map(column => ruleOf(column, date, lists));
    out = new RowBuffer(environmentId, date, header.filter(isStored).length);
  }

  function readRow(record: CsvRecord): void {
    const { row, bytes, from, to, quoting, fieldCount } = record;
    rowCount = row;
    if (fieldCount !== header.length) {
      const fields = fieldCount === 1 ? '1 field' : `${fieldCount} fields`;
      errors.add(row, null, `has ${fields} where the header has ${header.length}`);
      return;
    }
    out.beginRow(record.end - record.start);
    for (let index = 0; index < fieldCount; index += 1) {
      const start = from[index] ?? 0;
      const end = to[index] ?? 0;
      const invalid = rules[index]?.(out, bytes, start, end, quoting[index] ?? 0) ?? null;
      const message = notText(record, start, end) ?? invalid;
      if (message !== null) errors.add(row, header[index]?.header ?? null, message);
    }
    compareLists(lists, (column, message) => errors.add(row, column, message));
    // Only the rows before the first invalid field are stored.
    if (errors.count === 0) out.endRow();
  }

  return {
    errors,
    /** Names of the stored columns in the order of the body; empty until the header was read. */
    get columnNames() {
      return header.filter(isStored).map(columnName);
    },
    /** Number of rows so far. */
    get rowCount() {
      return rowCount;
    },
    /**
     * Validates the body piece by piece and yields to other requests in between.
     *
     * @param announcedRows number of rows that the body must have, if it is not null
     * @throws AppError `snapshot_invalid` for an invalid header, or what the pieces throw
     */
    async *read(pieces: AsyncIterable<Buffer>, announcedRows: number | null): AsyncGenerator<void> {
      let turnStartedAt = performance.now();
      let isStart = true;
      try {
        for await (const piece of pieces) {
          scan(isStart ? requireUtf8Csv(piece) : piece, false);
          isStart = false;
          yield;
          if (performance.now() - turnStartedAt <= turnMs) continue;
          await nextTurn();
          turnStartedAt = performance.now();
        }
        scan(Buffer.alloc(0), true);
      } catch (error) {
        if (!(error instanceof MalformedCsv)) throw error;
        const column = error.field === null ? null : (header[error.field]?.header ?? null);
        errors.add(error.row, column, error.message);
        if (header.length === 0) errors.throwIfAny();
        return;
      }
      // A body without any line has no columns.
      if (header.length === 0) matchHeader([]);
      if (announcedRows === null || announcedRows === rowCount) return;
      const rows = rowCount === 1 ? '1 row' : `${rowCount} rows`;
      errors.add(0, null, `has ${rows} where rowCount announces ${announcedRows}`);
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

function notText({ bytes, isText }: CsvRecord, from: number, to: number): string | null {
  if (isText) return null;
  const text = bytes.subarray(from, to);
  if (text.includes(0)) return 'has a NUL byte';
  return isUtf8(text) ? null : 'is not valid UTF-8';
}
