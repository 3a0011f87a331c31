import { isUtf8 } from 'node:buffer';
import type { Column, StoredColumn } from '../columns.ts';
import { type CsvRecord, createCsvScanner, MalformedCsv, Quoting } from './csv-scanner.ts';
import { looksLike } from './looks-like.ts';
import { matchHeader } from './match-header.ts';
import {
  copySignature,
  copyTrailer,
  maxExtraBytes,
  type RowBuffer,
  rowPrefix,
} from './row-buffer.ts';
import { createFieldErrors, type FieldErrors } from './snapshot-invalid.ts';
import { createValidation, type FieldRule, type RecordRule } from './validation.ts';

/** Size of the pieces that go to Postgres. */
const bufferBytes = 64 * 1024;

export interface RowReader {
  /** True once the header was read and is valid. */
  readonly hasHeader: boolean;
  /** Stored columns in the order of the body. */
  readonly columns: readonly StoredColumn[];
  /** Number of rows so far. */
  readonly rowCount: number;
  readonly errors: FieldErrors;
  /**
   * Validates the next bytes of the body.
   *
   * @param isLast true for the last call
   * @returns false after malformed CSV: the rest of the body cannot be read
   * @throws AppError `snapshot_invalid` for an invalid header
   */
  read(piece: Buffer, isLast: boolean): boolean;
  /**
   * Returns the rows that were encoded since the last call, in the binary format of COPY.
   *
   * @param isLast true to include the incomplete buffer and the end of the data
   */
  takeEncoded(isLast: boolean): Buffer[];
}

const byteOrderMark = Buffer.from('\uFEFF');

/**
 * Creates a reader of a CSV body. It encodes rows for COPY up to the first error and finds all
 * errors.
 */
export function createRowReader(environmentId: string, date: string): RowReader {
  const errors = createFieldErrors();
  const out: RowBuffer = { bytes: Buffer.allocUnsafeSlow(bufferBytes), at: 0 };
  let full: Buffer[] = [copySignature];
  let header: readonly Column[] = [];
  let stored: readonly StoredColumn[] = [];
  let fieldRules: readonly (FieldRule | null)[] = [];
  let recordRules: readonly RecordRule[] = [];
  let prefix: Buffer = Buffer.alloc(0);
  let isStart = true;
  let rowCount = 0;
  const scanner = createCsvScanner(record => {
    if (record.row === 0) readHeader(record);
    else readRow(record);
  });

  function readHeader(record: CsvRecord): void {
    const problem = record.isText ? null : notText(record.bytes, record.start, record.end);
    if (problem !== null) errors.add(0, null, problem);
    errors.throwIfAny();
    header = matchHeader(headerNames(record));
    stored = header.filter(column => column.kind !== 'label' && column.kind !== 'shown-date');
    ({ fields: fieldRules, records: recordRules } = createValidation(header, date));
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
    const rowStart = reserve(record.end - record.start);
    out.at += prefix.copy(out.bytes, out.at);
    for (let index = 0; index < fieldCount; index += 1) {
      const start = from[index] ?? 0;
      const end = to[index] ?? 0;
      let message = fieldRules[index]?.(out, bytes, start, end, quoting[index] ?? 0) ?? null;
      if (!isText) message = notText(bytes, start, end) ?? message;
      if (message !== null) errors.add(row, header[index]?.header ?? null, message);
    }
    for (const rule of recordRules) rule.check(message => errors.add(row, rule.header, message));
    // Only the rows before the first invalid field are stored.
    if (errors.count > 0) out.at = rowStart;
  }

  /** Reserves space for a row and returns its start. */
  function reserve(recordBytes: number): number {
    const needed = prefix.length + recordBytes + header.length * maxExtraBytes;
    if (out.bytes.length - out.at < needed) {
      if (out.at > 0) full.push(out.bytes.subarray(0, out.at));
      out.bytes = Buffer.allocUnsafeSlow(Math.max(bufferBytes, needed));
      out.at = 0;
    }
    return out.at;
  }

  return {
    get hasHeader() {
      return header.length > 0;
    },
    get columns() {
      return stored;
    },
    get rowCount() {
      return rowCount;
    },
    errors,
    read(piece, isLast) {
      try {
        scanner.scan(isStart ? startOfText(piece, errors) : piece, isLast);
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
    takeEncoded(isLast) {
      const taken = full;
      full = [];
      if (isLast) taken.push(out.bytes.subarray(0, out.at), copyTrailer);
      return taken;
    },
  };
}

/** Rejects other formats and removes a byte order mark. */
function startOfText(piece: Buffer, errors: FieldErrors): Buffer {
  const format = looksLike(piece);
  if (format !== null) errors.add(0, null, format);
  errors.throwIfAny();
  const hasMark = piece.subarray(0, byteOrderMark.length).equals(byteOrderMark);
  return hasMark ? piece.subarray(byteOrderMark.length) : piece;
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
