import { createCsvScanner, type FieldInspector, maxRecordBytes } from './csv-scanner.ts';
import { snapshotInvalid } from './snapshot-invalid.ts';

/** A snapshot body whose header has been read. */
export interface OpenCsv {
  readonly header: readonly string[];
  /**
   * The records after the header, as bytes that Postgres' CSV reader takes as they are. Once through.
   * @param inspectors see the field at their place of every record
   * @throws AppError `snapshot_invalid` while it is read
   */
  records(inspectors?: readonly (FieldInspector | null)[]): AsyncGenerator<Buffer>;
}

const byteOrderMark = Buffer.from('\uFEFF');
const nothing = Buffer.alloc(0);

/**
 * Reads as far as the header's end; the rest follows at the reader's pace. A byte order mark is dropped.
 * @throws AppError `snapshot_invalid`; or what the body throws
 */
export async function openCsv(body: AsyncIterable<Buffer>): Promise<OpenCsv> {
  const scanner = createCsvScanner();
  const chunks = withoutByteOrderMark(body);
  let record: Buffer = nothing;
  for (let bytes = 0; record.length === 0; ) {
    const next = await chunks.next();
    if (next.done === true) {
      record = scanner.scan(nothing, true, true);
      break;
    }
    record = scanner.scan(next.value, false, true);
    bytes += next.value.length;
    if (record.length === 0 && bytes > maxRecordBytes) {
      throw snapshotInvalid([{ row: 0, column: null, message: 'is longer than 1 MiB' }]);
    }
  }

  const header = splitRecord(record.toString().replace(/\n$/, ''));
  return {
    header,
    async *records(inspectors = []) {
      scanner.expect(header, inspectors);
      yield scanner.scan(nothing, false);
      for await (const chunk of chunks) yield scanner.scan(chunk, false);
      yield scanner.scan(nothing, true);
    },
  };
}

async function* withoutByteOrderMark(body: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let start: Buffer | null = Buffer.alloc(0);
  for await (const chunk of body) {
    if (start === null) {
      if (chunk.length > 0) yield chunk;
      continue;
    }
    start = start.length === 0 ? chunk : Buffer.concat([start, chunk]);
    if (start.length < byteOrderMark.length) continue;
    yield dropMark(start);
    start = null;
  }
  if (start !== null && start.length > 0) yield start;
}

function dropMark(start: Buffer): Buffer {
  const hasMark = start.subarray(0, byteOrderMark.length).equals(byteOrderMark);
  return hasMark ? start.subarray(byteOrderMark.length) : start;
}

/** The fields of one record that the scanner has found well-formed. */
function splitRecord(record: string): string[] {
  const fields: string[] = [];
  for (const [, inQuotes, plain] of record.matchAll(/(?:"((?:[^"]|"")*)"|([^,"]*))(?:,|$)/g)) {
    fields.push(inQuotes?.replaceAll('""', '"') ?? plain ?? '');
  }
  // At the end of the text the pattern matches once more, emptily, unless the last field itself was empty.
  if (!record.endsWith(',')) fields.pop();
  return fields;
}
