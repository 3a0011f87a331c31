import { isUtf8 } from 'node:buffer';
import { snapshotInvalid } from './snapshot-invalid.ts';

/** A record longer than this is a quote that nobody closed, or an attack on memory. */
export const maxRecordBytes = 1024 * 1024;

const comma = 0x2c;
const quote = 0x22;
const lf = 0x0a;
const cr = 0x0d;
const nul = 0x00;

/** Sees the bytes `start` … `end` of one field, without its outer quotes. */
export type FieldInspector = (bytes: Buffer, start: number, end: number, isQuoted: boolean) => void;

/**
 * Finds the records of a CSV body by RFC 4180 and hands them on whole; Postgres takes their fields apart. What
 * Postgres cannot do, it does: tell the record (not the line) at fault, take CRLF and LF alike, and refuse what a
 * lenient parser would guess at.
 */
export interface CsvScanner {
  /**
   * Takes the next bytes and gives back the records that are complete with them, CRLF outside quotes made LF. With
   * `isLast` what is left is the last record, line break or not.
   * @param atMostOne stop after one record and keep the rest for the next call
   * @throws AppError `snapshot_invalid`
   */
  scan(chunk: Buffer, isLast: boolean, atMostOne?: boolean): Buffer;
  /** From now on every record has these columns; each field is shown to the inspector at its place, if any. */
  expect(columns: readonly string[], inspectors: readonly (FieldInspector | null)[]): void;
}

export function createCsvScanner(): CsvScanner {
  let columns: readonly string[] | null = null;
  let inspectors: readonly (FieldInspector | null)[] = [];
  /** The record under way: 0 is the header. */
  let row = 0;
  let rest: Buffer = Buffer.alloc(0);

  function fault(message: string, field: number | null): Error {
    const column = field === null ? null : (columns?.[field] ?? null);
    return snapshotInvalid([{ row, column, message }]);
  }

  /**
   * Where the record that begins at `start` ends, after its line break; -1 when it goes on beyond these bytes.
   */
  function findRecordEnd(bytes: Buffer, start: number, isLast: boolean): number {
    const length = bytes.length;
    let at = start;
    let field = 0;
    for (;;) {
      let from = at;
      let to: number;
      const isQuoted = bytes[at] === quote;
      if (isQuoted) {
        from += 1;
        to = findClosingQuote(bytes, from);
        // A quote that is the last byte so far may be the first of a doubled one.
        if (to === -1 || (to + 1 === length && !isLast)) {
          if (isLast) throw fault('has a quote that is never closed', field);
          return -1;
        }
        at = to + 1;
      } else {
        let byte = bytes[at];
        while (at < length && byte !== comma && byte !== lf && byte !== cr && byte !== quote) {
          at += 1;
          byte = bytes[at];
        }
        to = at;
      }

      const byte = bytes[at];
      const next = bytes[at + 1];
      if (at >= length) {
        if (!isLast) return -1;
      } else if (byte === cr) {
        if (next === undefined && !isLast) return -1;
        if (next !== lf) throw fault('has a carriage return outside quotes', field);
      } else if (byte !== comma && byte !== lf) {
        const what = isQuoted
          ? 'has text after its closing quote'
          : 'has a quote but does not begin with one';
        throw fault(what, field);
      }

      inspectors[field]?.(bytes, from, to, isQuoted);
      if (byte === comma) {
        field += 1;
        at += 1;
        continue;
      }
      if (columns !== null && field + 1 !== columns.length) {
        const fields = field === 0 ? '1 field' : `${field + 1} fields`;
        throw fault(`has ${fields} where the header has ${columns.length}`, null);
      }
      return at >= length ? length : at + (byte === cr ? 2 : 1);
    }
  }

  /** Goes through the records once more to tell which field has the bytes that must not be. */
  function refuseBadBytes(records: Buffer, firstRow: number): never {
    const refuse = (bytes: Buffer, from: number, to: number, field: number | null) => {
      const text = bytes.subarray(from, to);
      if (text.includes(nul)) throw fault('has a NUL byte', field);
      if (!isUtf8(text)) throw fault('is not valid UTF-8', field);
    };
    row = firstRow;
    if (columns === null)
      throw fault(records.includes(nul) ? 'has a NUL byte' : 'is not valid UTF-8', null);
    inspectors = columns.map((_, field) => (bytes, from, to) => refuse(bytes, from, to, field));
    for (let start = 0; start < records.length; row += 1)
      start = findRecordEnd(records, start, true);
    throw fault('is not valid UTF-8', null);
  }

  /** The same; but a row before it that is no text comes first, however the chunks fell. */
  function findRecordEndAfter(
    bytes: Buffer,
    start: number,
    isLast: boolean,
    firstRow: number,
  ): number {
    try {
      return findRecordEnd(bytes, start, isLast);
    } catch (error) {
      requireText(bytes.subarray(0, start), firstRow);
      throw error;
    }
  }

  function requireText(records: Buffer, firstRow: number): void {
    if (!isUtf8(records) || records.includes(nul)) refuseBadBytes(records, firstRow);
  }

  return {
    expect(names, fieldInspectors) {
      columns = names;
      inspectors = fieldInspectors;
    },

    scan(chunk, isLast, atMostOne = false) {
      const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      const pieces: Buffer[] = [];
      let pieceStart = 0;
      const firstRow = row;
      let start = 0;
      while (start < bytes.length) {
        const end = findRecordEndAfter(bytes, start, isLast, firstRow);
        if (end === -1) break;
        if (end - start > maxRecordBytes) throw fault('is longer than 1 MiB', null);
        if (bytes[end - 1] === lf && bytes[end - 2] === cr && end - 2 >= start) {
          pieces.push(bytes.subarray(pieceStart, end - 2));
          pieceStart = end - 1;
        }
        start = end;
        row += 1;
        if (atMostOne) break;
      }
      const records = bytes.subarray(0, start);
      requireText(records, firstRow);
      rest = bytes.subarray(start);
      if (!atMostOne && rest.length > maxRecordBytes) throw fault('is longer than 1 MiB', null);
      pieces.push(bytes.subarray(pieceStart, start));
      return pieces.length === 1 ? (pieces[0] ?? chunk) : Buffer.concat(pieces);
    },
  };
}

/** The quote that ends the field whose text begins at `from`: the first that is not doubled; -1 for none. */
function findClosingQuote(bytes: Buffer, from: number): number {
  const length = bytes.length;
  for (let at = from; at < length; at += 1) {
    if (bytes[at] !== quote) continue;
    if (bytes[at + 1] !== quote) return at;
    at += 1;
  }
  return -1;
}
