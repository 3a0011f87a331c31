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

/**
 * Scans the next bytes of the body and reports each record that they complete. The cost is linear
 * in the length of the body, independent of the sizes of the pieces.
 *
 * @param isLast true for the last call; the last record needs no line break
 * @throws MalformedCsv
 */
export type ScanCsv = (piece: Buffer, isLast: boolean) => void;

/**
 * Creates a scanner for records and fields by RFC 4180 with LF or CRLF. It rejects malformed text
 * that lenient parsers would guess.
 *
 * @param limitBytes longest record after the header
 */
export function createCsvScanner(
  onRecord: (record: CsvRecord) => void,
  limitBytes = maxRecordBytes,
): ScanCsv {
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
  /** Bytes of the record that is not complete yet. */
  let rest: Buffer = Buffer.alloc(0);
  /** Length at which they are scanned again. It doubles, so that the cost stays linear. */
  let nextLength = 0;

  const maxBytes = () => (record.row === 0 ? maxHeaderBytes : limitBytes);
  function requireLength(bytes: number): void {
    if (bytes <= maxBytes()) return;
    throw new MalformedCsv(
      record.row,
      null,
      `is longer than ${record.row === 0 ? '8 KiB' : `${limitBytes / 2 ** 20} MiB`}`,
    );
  }

  return (piece, isLast) => {
    const bytes = rest.length === 0 ? piece : Buffer.concat([rest, piece]);
    rest = bytes;
    if (!isLast && bytes.length < Math.min(nextLength, maxBytes())) return;
    // A line break never lies inside a character. Every record that ends in these bytes ends
    // before it.
    const checked = bytes.subarray(0, isLast ? bytes.length : bytes.lastIndexOf(lf) + 1);
    record.isText = isUtf8(checked) && !checked.includes(0);
    record.bytes = bytes;
    let start = 0;
    while (start < bytes.length) {
      const end = scanRecord(record, start, isLast);
      if (end === -1) break;
      requireLength(end - start);
      record.start = start;
      record.end = end;
      onRecord(record);
      record.row += 1;
      start = end;
    }
    rest = bytes.subarray(start);
    requireLength(rest.length);
    nextLength = 2 * rest.length;
  };
}

/**
 * Scans the fields of the record that starts at `start`.
 *
 * @returns the end of the record, or -1 if it continues after the known bytes
 */
function scanRecord(record: CsvRecord, start: number, isLast: boolean): number {
  const { bytes } = record;
  const { length } = bytes;
  let at = start;
  for (let field = 0; ; field += 1) {
    const isQuoted = bytes[at] === quote;
    const from = isQuoted ? at + 1 : at;
    let to = from;
    let quoting: number = isQuoted ? Quoting.quoted : Quoting.none;
    if (isQuoted) {
      for (;;) {
        while (to < length && bytes[to] !== quote) to += 1;
        if (to + 1 < length && bytes[to + 1] === quote) {
          quoting = Quoting.escaped;
          to += 2;
        } else break;
      }
      if (to >= length && isLast)
        throw new MalformedCsv(record.row, field, 'has a quote that is never closed');
      at = to + 1;
    } else {
      for (; to < length; to += 1) {
        const byte = bytes[to];
        if (byte === comma || byte === lf || byte === cr || byte === quote) break;
      }
      at = to;
    }
    // The next byte decides whether this is a doubled quote, or CRLF.
    if (!isLast && at + (bytes[at] === cr ? 1 : 0) >= length) return -1;
    const byte = bytes[at];
    if (byte === cr) {
      if (bytes[at + 1] !== lf)
        throw new MalformedCsv(record.row, field, 'has a carriage return outside quotes');
    } else if (byte !== comma && byte !== lf && byte !== undefined) {
      const message = isQuoted
        ? 'has text after its closing quote'
        : 'has a quote but does not begin with one';
      throw new MalformedCsv(record.row, field, message);
    }
    if (field < maxColumns) {
      record.from[field] = from;
      record.to[field] = to;
      record.quoting[field] = quoting;
    }
    if (byte === undefined || byte === lf || byte === cr) {
      record.fieldCount = field + 1;
      return Math.min(length, at + (byte === cr ? 2 : 1));
    }
    at += 1;
  }
}
