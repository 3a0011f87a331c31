import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { csvField, csvList, exportHeader } from '../helpers/adoption-rows.ts';
import { openDuckDb } from '../helpers/read-parquet.ts';

/** Reads Parquet files with DuckDB. */

type Value = string | number | null | readonly string[];

let opening: ReturnType<typeof openDuckDb> | null = null;

/** Returns the CSV file with the same rows, in the same order. */
export async function csvOfParquet(bytes: Buffer): Promise<string> {
  opening ??= openDuckDb({ threads: '1' });
  const { connection } = await opening;
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'warehouse-export-parquet-'));
  try {
    const file = path.join(directory, 'file.parquet');
    fs.writeFileSync(file, bytes);
    const read = await connection.runAndReadAll(
      `select * replace (
         date::varchar as date, feedback_count::int as feedback_count,
         epoch_ms(first_seen) as first_seen, epoch_ms(last_seen) as last_seen,
         epoch_ms(first_used) as first_used, epoch_ms(last_used) as last_used)
       from '${file}'`,
    );
    const names = read.columnNames();
    const rows = read.getRowsJson() as Value[][];
    return `${exportHeader}${rows.map(row => lineOf(names, row)).join('')}`;
  } finally {
    fs.rmSync(directory, { recursive: true });
  }
}

function lineOf(names: readonly string[], row: readonly Value[]): string {
  const fields = row.map((value, index) => {
    if (typeof value === 'object' && value !== null) return csvList(value);
    const isInstant = /^(first|last)_/.test(names[index] ?? '');
    return isInstant && value !== null ? new Date(Number(value)).toISOString() : value;
  });
  return `${fields.map(csvField).join(',')}\n`;
}
