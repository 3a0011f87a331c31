import fs from 'node:fs';
import path from 'node:path';
import { selectRows } from '../src/snapshots/render/select-rows.sql.ts';
import type { Bench } from './bench.ts';
import { shell } from './processes.ts';

/** Baselines that the service is compared with. */

const utc = { PGOPTIONS: '-c timezone=UTC -c datestyle=ISO,YMD' };

/**
 * Returns a shell command that writes the rows of a day without a header. It uses the SELECT of the
 * service.
 */
export function copyOut(bench: Bench, environmentId = bench.environmentId): string {
  const sql = selectRows(environmentId, bench.date, bench.date);
  const file = path.join(bench.directory, `copy-${environmentId}.sql`);
  fs.writeFileSync(file, bench.hasPsql ? `\\${sql}\n` : sql);
  if (bench.hasPsql) return `psql -qXf '${file}' '${bench.databaseUrl}'`;
  return `'${process.execPath}' '${path.join(import.meta.dirname, 'copy-out.ts')}' '${bench.databaseUrl}' '${file}'`;
}

/**
 * Runs `\copy (…) to` a pipe.
 *
 * @returns seconds
 */
export async function copyToPipe(bench: Bench, environmentId?: string): Promise<number> {
  return await shell(`${copyOut(bench, environmentId)} | cat >/dev/null`, utc);
}

/**
 * Pipes the rows of `\copy` through other programs, such as gzip.
 *
 * @returns seconds
 */
export async function copyThrough(
  bench: Bench,
  pipe: string,
  env: Readonly<Record<string, string>>,
): Promise<number> {
  return await shell(`${copyOut(bench)} | ${pipe}`, { ...utc, ...env });
}

/**
 * Runs the usual solution: a cursor and fast-csv.
 *
 * @returns seconds
 */
export async function cursorAndFastCsv(bench: Bench): Promise<number> {
  const script = path.join(import.meta.dirname, 'cursor-fast-csv.ts');
  const args = `'${bench.databaseUrl}' '${bench.environmentId}' '${bench.date}'`;
  return await shell(`'${process.execPath}' '${script}' ${args} | cat >/dev/null`);
}

export function baselineName(bench: Bench): string {
  return bench.hasPsql
    ? 'psql \\copy to a pipe'
    : 'COPY by pg-copy-streams to a pipe (psql is not installed)';
}
