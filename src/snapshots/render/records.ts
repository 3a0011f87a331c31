/** Finds records and fields in CSV of Postgres, which doubles quotes inside quoted fields. */

const quote = 0x22;
const comma = 0x2c;
const lineFeed = 0x0a;

/**
 * Cuts CSV into whole records of at least `minBytes` together, except the last piece. The cuts
 * depend only on the bytes, not on the sizes of the source chunks.
 */
export async function* cutRecords(
  source: AsyncIterable<Buffer>,
  minBytes: number,
): AsyncGenerator<Buffer> {
  let pieces: Buffer[] = [];
  let length = 0;
  let isQuoted = false;
  for await (const bytes of source) {
    let start = 0;
    let at = 0;
    while (at < bytes.length) {
      // Records that end before this position do not end the piece.
      const earliest = start + minBytes - length - 1;
      let end = -1;
      for (; at < bytes.length; at += 1) {
        const byte = bytes[at];
        if (byte === quote) isQuoted = !isQuoted;
        else if (byte === lineFeed && at >= earliest && !isQuoted) {
          at += 1;
          end = at;
          break;
        }
      }
      if (end === -1) break;
      pieces.push(bytes.subarray(start, end));
      yield Buffer.concat(pieces);
      pieces = [];
      length = 0;
      start = end;
    }
    if (start < bytes.length) {
      pieces.push(bytes.subarray(start));
      length += bytes.length - start;
    }
  }
  if (length > 0) yield Buffer.concat(pieces);
}

/** Number of fields before the Date field in a record. */
const fieldsBeforeDate = 4;

/**
 * Replaces the Date field of every record in place. Both dates are `YYYY-MM-DD`, so lengths stay
 * the same.
 * @param records whole records
 * @throws Error if a record shows another date than `from`
 */
export function replaceDates(records: Buffer, from: string, to: string): Buffer {
  const expected = Buffer.from(`${from},`);
  const replacement = Buffer.from(to);
  let field = 0;
  let isQuoted = false;
  for (let at = 0; at < records.length; at += 1) {
    const byte = records[at];
    if (byte === quote) isQuoted = !isQuoted;
    else if (isQuoted) continue;
    else if (byte === lineFeed) field = 0;
    else if (byte === comma) {
      field += 1;
      if (field !== fieldsBeforeDate) continue;
      const end = at + 1 + expected.length;
      if (expected.compare(records, at + 1, end) !== 0)
        throw new Error(`A record of snapshot ${from} shows another date.`);
      replacement.copy(records, at + 1);
      at += replacement.length;
    }
  }
  return records;
}
