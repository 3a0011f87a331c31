import { type RowFault, snapshotInvalid } from './snapshot-invalid.ts';
import { createUtf8Check } from './utf8.ts';

/** A record longer than this is a quote that nobody closed, or an attack on memory. */
export const maxRecordBytes = 1024 * 1024;

const comma = 0x2c;
const quote = 0x22;
const lf = 0x0a;
const cr = 0x0d;
const nul = 0x00;

/** Where the scanner stands. */
const fieldStart = 0;
const unquoted = 1;
const quoted = 2;
/** After a quote inside a quoted field: its end, or the first of a doubled one. */
const quoteSeen = 3;
const crSeen = 4;

/**
 * Follows RFC 4180 byte by byte without taking fields apart: Postgres does that. What Postgres cannot do, it does:
 * tell the record (not the line) at fault, keep CRLF and LF apart from data, and refuse what a lenient parser would
 * guess at. Values are not looked at here.
 */
export interface CsvScanner {
  /**
   * Scans one chunk. Returns the bytes to hand on: the same, with CRLF outside quotes made LF. Stops after the first
   * record when `untilRecordEnd` is set; `consumed` says how far it came.
   * @throws AppError `snapshot_invalid`
   */
  scan(chunk: Buffer, untilRecordEnd?: boolean): { output: Buffer; consumed: number; recordEnded: boolean };
  /** Call once at the end of the body. @throws AppError `snapshot_invalid` */
  end(): void;
  /** From now on every record must have as many fields as there are columns. */
  expect(columns: readonly string[]): void;
}

export function createCsvScanner(): CsvScanner {
  const utf8 = createUtf8Check();
  let columns: readonly string[] | null = null;
  let state = fieldStart;
  let row = 0;
  let field = 0;
  /** Bytes of the record under way in chunks before this one. */
  let recordBytes = 0;

  function fault(message: string, column: string | null = columns?.[field] ?? null): Error {
    return snapshotInvalid([{ row, column, message } satisfies RowFault]);
  }

  function endRecord(): void {
    const fields = field + 1;
    if (columns !== null && fields !== columns.length) {
      throw fault(
        `has ${fields} field${fields === 1 ? '' : 's'} where the header has ${columns.length}`,
        null,
      );
    }
    row += 1;
    field = 0;
    state = fieldStart;
  }

  /** The first byte that must not be, so that scanning stops there and knows the row. */
  function findForbidden(chunk: Buffer): { at: number; message: string } | null {
    const utf8At = utf8.check(chunk);
    const nulAt = chunk.indexOf(nul);
    if (utf8At !== null && (nulAt === -1 || utf8At <= nulAt))
      return { at: utf8At, message: 'is not valid UTF-8' };
    return nulAt === -1 ? null : { at: nulAt, message: 'has a NUL byte' };
  }

  return {
    expect(names) {
      columns = names;
    },

    scan(chunk, untilRecordEnd = false) {
      // A header is followed by bytes that are scanned again, and those are checked then.
      const forbidden = untilRecordEnd ? null : findForbidden(chunk);
      const end = forbidden === null ? chunk.length : Math.max(0, forbidden.at);
      const pieces: Buffer[] = [];
      let pieceStart = 0;
      let recordStart = -recordBytes;
      let index = 0;
      let recordEnded = false;

      while (index < end) {
        if (state === quoted) {
          const closing = chunk.indexOf(quote, index);
          if (closing === -1 || closing >= end) {
            index = end;
            break;
          }
          state = quoteSeen;
          index = closing + 1;
          continue;
        }
        const byte = chunk[index];
        if (state === crSeen) {
          if (byte !== lf) throw fault('has a carriage return outside quotes');
          // Drop the CR: it is the last byte handed on so far, in this chunk or held back from the one before.
          if (index > 0) pieces.push(chunk.subarray(pieceStart, index - 1));
          pieceStart = index;
          endRecord();
          recordStart = index + 1;
          recordEnded = true;
        } else if (byte === comma) {
          field += 1;
          state = fieldStart;
        } else if (byte === lf) {
          endRecord();
          recordStart = index + 1;
          recordEnded = true;
        } else if (byte === cr) {
          state = crSeen;
        } else if (byte === quote) {
          if (state === unquoted) throw fault('has a quote inside a field that does not begin with one');
          state = quoted;
        } else {
          if (state === quoteSeen) throw fault('has text after its closing quote');
          state = unquoted;
        }
        index += 1;
        if (recordEnded && untilRecordEnd) break;
        if (index - recordStart > maxRecordBytes) break;
      }

      if (index - recordStart > maxRecordBytes) throw fault('is longer than 1 MiB', null);
      if (forbidden !== null) throw fault(forbidden.message);
      if (untilRecordEnd) {
        const inHeader = findForbidden(chunk.subarray(0, index));
        if (inHeader !== null) throw snapshotInvalid([{ row: 0, column: null, message: inHeader.message }]);
      }
      recordBytes = index - recordStart;
      // A CR at the very end is held back until the next byte says what it was.
      pieces.push(chunk.subarray(pieceStart, Math.max(pieceStart, state === crSeen ? index - 1 : index)));
      const output = pieces.length === 1 ? (pieces[0] ?? chunk) : Buffer.concat(pieces);
      return { output, consumed: index, recordEnded };
    },

    end() {
      if (!utf8.isComplete()) throw fault('is not valid UTF-8');
      if (state === quoted) throw fault('has a quote that is never closed');
      if (state === crSeen) throw fault('has a carriage return outside quotes');
      if (recordBytes > 0) endRecord();
    },
  };
}
