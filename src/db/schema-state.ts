import fs from 'node:fs';
import path from 'node:path';
import { sql } from 'kysely';
import { DatabaseError } from 'pg';
import type { Database } from './database.ts';
import { queueNames } from './job-queue.ts';
import { migrationFolder } from './migrator.ts';

/** Sentence for the operator if the database lacks tables. */
export const pendingMigrations =
  'The database lacks tables or columns of this version: run npm run migrate.';

/**
 * Compares the database with the migrations and job queues of this version. A newer database is
 * accepted, because every migration keeps the previous version working.
 *
 * @returns a sentence for the operator, or null if the schema is complete
 * @throws the driver's error if the database cannot be reached
 */
export async function findSchemaObstacle(db: Database): Promise<string | null> {
  try {
    const { rows } = await sql<{ names: string[] }>`
      select array(
        select name::text from kysely_migration union all select name::text from pgboss.queue
      ) as names`.execute(db);
    const present = new Set(rows[0]?.names);
    const isComplete = [...migrationNames(), ...queueNames].every(name => present.has(name));
    return isComplete ? null : pendingMigrations;
  } catch (error) {
    if (isSchemaMissing(error)) return pendingMigrations;
    throw error;
  }
}

/**
 * Returns true if a statement failed because a table, a column or a schema does not exist.
 * Codes: https://www.postgresql.org/docs/current/errcodes-appendix.html (undefined_table,
 * undefined_column, invalid_schema_name).
 */
export function isSchemaMissing(error: unknown): boolean {
  return error instanceof DatabaseError && ['42P01', '42703', '3F000'].includes(error.code ?? '');
}

let knownMigrations: readonly string[] | null = null;

function migrationNames(): readonly string[] {
  knownMigrations ??= fs.readdirSync(migrationFolder).map(file => path.basename(file, '.ts'));
  return knownMigrations;
}
