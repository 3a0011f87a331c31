import { constants, zstdCompressSync } from 'node:zlib';
import { ByteWriter, ParquetWriter } from 'hyparquet-writer';
import { type CsvRecord, createCsvScanner, Quoting } from '../../shared/csv-scanner.ts';
import { parquetColumns } from '../column-types.ts';
import { type FieldValue, fieldReaders } from './read-field.ts';
import { codec, compressionLevel, createdBy } from './renderer.ts';
import { parquetSchema } from './schema.ts';

/** Converts the CSV of one file to Parquet. Works synchronously, so call it in a worker thread. */
export interface ParquetEncoder {
  /**
   * Reads the next bytes of the CSV.
   * @returns bytes of the Parquet file; the caller owns them
   * @throws Error if the CSV is malformed
   */
  add(csv: Buffer): Uint8Array<ArrayBuffer>[];
  /**
   * Ends the file.
   * @throws Error if the CSV had another number of rows, or ended inside one
   */
  end(rowCount: number): Uint8Array<ArrayBuffer>[];
}

/**
 * Limits of a row group in rows and in bytes of CSV. Small groups keep the memory low. The second
 * limit holds for long texts and lists.
 */
const groupRows = 5_000;
const groupBytes = 2 * 2 ** 20;

/**
 * Longest row in bytes of CSV. An ingest accepts 1 MiB, but a backend may fill the tables by SQL.
 */
const maxRowBytes = 16 * 2 ** 20;

const level = { params: { [constants.ZSTD_c_compressionLevel]: compressionLevel } };

/**
 * Columns with statistics. The writer keeps the lowest and the highest value of every row group
 * until the end. Long texts have none, because they would keep a part of the file in memory.
 * Queries skip row groups by dates and ids.
 */
const idColumns: readonly string[] = ['company_id', 'feature_id'];
const withStatistics = parquetColumns.map(
  ({ name, type }) => idColumns.includes(name) || (type !== 'string' && type !== 'list<string>'),
);

const readers = parquetColumns.map(({ type }) => fieldReaders[type]);

export function createParquetEncoder(): ParquetEncoder {
  const writer = new DrainedWriter();
  const compressors = { [codec]: (bytes: Uint8Array) => zstdCompressSync(bytes, level) };
  const file = new ParquetWriter({
    writer,
    schema: parquetSchema,
    codec,
    compressors,
    createdBy,
  });
  let group = parquetColumns.map((): FieldValue[] => []);
  let rowsInGroup = 0;
  let bytesInGroup = 0;
  let rows = 0;
  const scan = createCsvScanner(readRecord, maxRowBytes);

  function readRecord(record: CsvRecord): void {
    const { row, bytes, from, to, quoting, fieldCount } = record;
    if (fieldCount !== parquetColumns.length)
      throw new Error(`Row ${row} has ${fieldCount} fields instead of ${parquetColumns.length}.`);
    if (row === 0) return;
    for (let index = 0; index < fieldCount; index += 1) {
      const start = from[index] ?? 0;
      const end = to[index] ?? 0;
      const isNull = start === end && quoting[index] === Quoting.none;
      const isEscaped = quoting[index] === Quoting.escaped;
      group[index]?.push(isNull ? null : (readers[index]?.(bytes, start, end, isEscaped) ?? null));
    }
    rowsInGroup += 1;
    bytesInGroup += record.end - record.start;
    if (rowsInGroup === groupRows || bytesInGroup >= groupBytes) endGroup();
  }

  function endGroup(): void {
    const columnData = parquetColumns.map(({ name }, index) => ({
      name,
      data: group[index] ?? [],
      statistics: withStatistics[index] === true,
      offsetIndex: false,
    }));
    // Returns nothing to wait for, because the writer flushes synchronously.
    file.write({ columnData, rowGroupSize: rowsInGroup });
    rows += rowsInGroup;
    group = parquetColumns.map(() => []);
    rowsInGroup = 0;
    bytesInGroup = 0;
  }

  return {
    add(csv) {
      scan(csv, false);
      return writer.take();
    },
    end(rowCount) {
      scan(Buffer.alloc(0), true);
      if (rowsInGroup > 0) endGroup();
      if (rows !== rowCount)
        throw new Error(
          `Row count mismatch of a Parquet file: expected ${rowCount}, read ${rows}.`,
        );
      file.finish();
      const pieces = writer.take();
      const footer = pieces.at(-1);
      if (rows === 0 && footer !== undefined) correctEmptyList(footer);
      return pieces;
    },
  };
}

/** Writer whose buffer holds one row group. `ParquetWriter` flushes it after each group. */
class DrainedWriter extends ByteWriter {
  #pieces: Uint8Array<ArrayBuffer>[] = [];

  flush(): void {
    this.#pieces.push(this.getBytes().slice());
    this.index = 0;
  }

  override finish(): void {
    this.flush();
  }

  /** Returns the bytes of the row groups that have ended since the last call. */
  take(): Uint8Array<ArrayBuffer>[] {
    return this.#pieces.splice(0);
  }
}

/** Thrift: field 3, zero rows; field 4, a list without elements and without their type. */
const emptyRowGroups = Buffer.from([0x16, 0x00, 0x19, 0x00]);
const structType = 0x0c;

/**
 * Sets the element type in the list of row groups of a file without rows. The type of
 * hyparquet-writer 0.17 is 0 (`elemType ?? BYTE` in its thrift.js). Arrow for Rust refuses it.
 */
function correctEmptyList(footer: Uint8Array): void {
  const at = Buffer.from(footer.buffer, footer.byteOffset, footer.length).lastIndexOf(
    emptyRowGroups,
  );
  if (at === -1) throw new Error('The footer of an empty Parquet file has another form.');
  footer[at + emptyRowGroups.length - 1] = structType;
}
