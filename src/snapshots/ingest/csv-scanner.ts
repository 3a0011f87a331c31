import { isUtf8 } from 'node:buffer';

/** Longest record in bytes. A longer one usually has an unclosed quote. */
export const maxRecordBytes = 1024 * 1024;
export const maxHeaderBytes = 8 * 1024;
export const maxColumns = 64;

const comma = 0x2c;
const quote = 0x22;
const lf = 0x0a;
const cr = 0x0d;

/** Quoting of a field. An escaped field contains doubled quotes, each of which means one quote. */
export const Quoting = { none: 0, quoted: 1, escaped: 2 } as const;

/** Record of the body. The scanner reuses the object: it is valid only during the call. */
export interface CsvRecord {
  /** Position in the body. The header is record 0. */
  row: number;
  /** Holds the record from `start` to `end`, line break included. */
  bytes: Buffer;
  start: number;
  end: number;
  /** Number of fields. The three arrays describe only the first `maxColumns`. */
  fieldCount: number;
  /** Start and end of the text of each field, without its outer quotes. */
  readonly from: Int32Array;
  readonly to: Int32Array;
  readonly quoting: Uint8Array;
  /** False if the bytes near this record contain a NUL byte or invalid UTF-8. */
  isText: boolean;
}

/** Record that is not CSV, so its end is unknown. */
export class MalformedCsv extends Error {
  readonly row: number;
  /** Index of the field; null for the whole record. */
  readonly field: number | null;

  constructor(row: number, field: number | null, message: string) {
    super(message);
    this.row = row;
    this.field = field;
  }
}

export interface CsvScanner {
  /**
   * Scans the next bytes of the body and reports each record that they complete. The cost is linear
   * in the length of the body, independent of the sizes of the pieces.
   *
   * @param isLast true for the last call; the last record needs no line break
   * @throws MalformedCsv
   */
  scan(piece: Buffer, isLast: boolean): void;
}

/**
 * Creates a scanner for records and fields by RFC 4180 with LF or CRLF. It rejects malformed text
 * that lenient parsers would guess.
 */
export function createCsvScanner(onRecord: (record: CsvRecord) => void): CsvScanner {
  const record: CsvRecord = {
    row: 0,
    bytes: Buffer.alloc(0),
    start: 0,
    end: 0,
    fieldCount: 0,
    from: new Int32Array(maxColumns),
    to: new Int32Array(maxColumns),
    quoting: new Uint8Array(maxColumns),
    isText: true,
  };
  const { from: starts, to: ends, quoting: quotings } = record;
  /** Bytes of the unfinished record. Positions below are relative to its start. */
  let rest: Buffer = Buffer.alloc(0);
  let field = 0;
  let isInField = false;
  let from = 0;
  let quoting = 0;
  let at = 0;

  function malformed(message: string, atField: number | null = field): MalformedCsv {
    return new MalformedCsv(record.row, atField, message);
  }

  function requireLength(length: number): void {
    if (record.row > 0 && length > maxRecordBytes) throw malformed('is longer than 1 MiB', null);
    if (record.row === 0 && length > maxHeaderBytes) throw malformed('is longer than 8 KiB', null);
  }

  /**
   * Moves `at` to the end of the field.
   *
   * @returns the end of its text, or -1 if the field continues after these bytes
   */
  function findFieldEnd(bytes: Buffer, isLast: boolean): number {
    const length = bytes.length;
    let position = at;
    if (quoting === Quoting.none) {
      while (position < length) {
        const byte = bytes[position];
        if (byte === comma || byte === lf || byte === cr || byte === quote) break;
        position += 1;
      }
      at = position;
      return position;
    }
    for (;;) {
      while (position < length && bytes[position] !== quote) position += 1;
      at = position;
      if (position >= length) {
        if (isLast) throw malformed('has a quote that is never closed');
        return -1;
      }
      // The last byte so far may be the first quote of a doubled one.
      if (position + 1 === length && !isLast) return -1;
      if (bytes[position + 1] !== quote) break;
      quoting = Quoting.escaped;
      position += 2;
    }
    at = position + 1;
    return position;
  }

  return {
    scan(piece, isLast) {
      const bytes = rest.length === 0 ? piece : Buffer.concat([rest, piece]);
      const length = bytes.length;
      // A line break never lies inside a character. Every record that ends in these bytes ends
      // before it.
      const checked = bytes.subarray(0, isLast ? length : bytes.lastIndexOf(lf) + 1);
      record.isText = isUtf8(checked) && !checked.includes(0);
      record.bytes = bytes;
      let start = 0;
      for (;;) {
        if (!isInField) {
          if (at >= length && (!isLast || (field === 0 && at === start))) break;
          quoting = bytes[at] === quote ? Quoting.quoted : Quoting.none;
          if (quoting !== Quoting.none) at += 1;
          from = at;
          isInField = true;
        }
        const to = findFieldEnd(bytes, isLast);
        if (to === -1) break;
        const byte = bytes[at];
        if (byte === undefined) {
          if (!isLast) break;
        } else if (byte === cr) {
          if (at + 1 === length && !isLast) {
            // The next byte decides whether this is CRLF. A quoted field resumes at its last quote.
            at = to;
            break;
          }
          if (bytes[at + 1] !== lf) throw malformed('has a carriage return outside quotes');
        } else if (byte !== comma && byte !== lf) {
          throw malformed(
            quoting === Quoting.none
              ? 'has a quote but does not begin with one'
              : 'has text after its closing quote',
          );
        }
        if (field < maxColumns) {
          starts[field] = from;
          ends[field] = to;
          quotings[field] = quoting;
        }
        field += 1;
        isInField = false;
        if (byte === comma) {
          at += 1;
          continue;
        }
        if (byte !== undefined) at += byte === cr ? 2 : 1;
        requireLength(at - start);
        record.start = start;
        record.end = at;
        record.fieldCount = field;
        onRecord(record);
        record.row += 1;
        start = at;
        field = 0;
      }
      rest = bytes.subarray(start);
      requireLength(rest.length);
      at -= start;
      from -= start;
      const open = Math.min(field, maxColumns);
      for (let index = 0; index < open; index += 1) {
        starts[index] = (starts[index] ?? 0) - start;
        ends[index] = (ends[index] ?? 0) - start;
      }
    },
  };
}
