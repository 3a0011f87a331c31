/**
 * Reads Parquet files with DuckDB, in a form that can be compared with CSV. Strings are compared by
 * their bytes, because the binding drops a leading byte order mark.
 */
import fs from 'node:fs';
import path from 'node:path';
import { parseCsv, parseList } from './csv-reader.ts';

interface TestWithDirectory {
  testdir(fixture: Record<string, string>): string;
}

export interface ParquetFile {
  /** Names and types as DuckDB describes them. */
  readonly columns: readonly (readonly [name: string, type: string])[];
  /** Values in the form of `comparableRows`. */
  readonly rows: readonly (readonly unknown[])[];
}

/** Null if the native package is missing on this platform. */
const duckDb = await import('@duckdb/node-api').catch(() => null);

/** Reason to skip a test that needs DuckDB, else false. */
export const withoutDuckDb = duckDb === null ? 'DuckDB has no package for this platform' : false;

/** @throws Error if DuckDB is missing */
export async function openDuckDb(options: Readonly<Record<string, string>> = {}) {
  if (duckDb === null) throw new Error('DuckDB is missing.');
  const instance = await duckDb.DuckDBInstance.create(':memory:', options);
  const connection = await instance.connect();
  return {
    connection,
    close(): void {
      connection.closeSync();
      instance.closeSync();
    },
  };
}

const hex = (column: string) => `hex(encode(${column}))`;

/** Converts a column to text that does not depend on the binding. */
function comparable([name, type]: readonly [string, string]): string {
  if (type === 'VARCHAR') return hex(name);
  if (type === 'VARCHAR[]')
    return `array_to_string(list_transform(${name}, item -> ${hex('item')} || '.'), '')`;
  if (type.startsWith('TIMESTAMP')) return `epoch_ms(${name})::varchar`;
  return `${name}::varchar`;
}

export async function readParquet(t: TestWithDirectory, bytes: Buffer): Promise<ParquetFile> {
  const file = path.join(t.testdir({}), 'file.parquet');
  fs.writeFileSync(file, bytes);
  const { connection, close } = await openDuckDb();
  try {
    const ask = async (sql: string) => (await connection.runAndReadAll(sql)).getRowsJson();
    const described = await ask(`describe select * from '${file}'`);
    const columns = described.map(([name, type]) => [String(name), String(type)] as const);
    const rows = await ask(`select ${columns.map(comparable).join(', ')} from '${file}'`);
    return { columns, rows };
  } finally {
    close();
  }
}

const kinds: Readonly<Record<string, (text: string) => string>> = {
  text: text => Buffer.from(text).toString('hex').toUpperCase(),
  list: text =>
    parseList(text)
      .map(item => `${kinds['text']?.(item)}.`)
      .join(''),
  instant: text => String(Date.parse(text)),
  same: text => text,
};

const kindOf = (header: string | null) => {
  if (/^(First|Last) /.test(header ?? '')) return 'instant';
  if (/^Segment /.test(header ?? '')) return 'list';
  return /^(Date|STARS State|Frequency|Satisfaction|Feedback Count)$/.test(header ?? '')
    ? 'same'
    : 'text';
};

/** Returns the rows of a CSV file in the form of `readParquet`. */
export function comparableRows(csv: string): (string | null)[][] {
  const [header = [], ...rows] = parseCsv(csv);
  const read = header.map(name => kinds[kindOf(name)]);
  return rows.map(row =>
    row.map((field, index) => (field === null ? null : (read[index]?.(field) ?? null))),
  );
}
