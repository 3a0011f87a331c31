import { promises as fs } from 'node:fs';
import path from 'node:path';
import { FileMigrationProvider, Migrator } from 'kysely/migration';
import { createKysely, createPool } from './connect.ts';
import { installJobQueue } from './job-queue.ts';

const migrationFolder = path.join(import.meta.dirname, '../../migrations');

/**
 * Brings the database to the newest schema, forward only. Several processes may call it at once: Kysely's migrator
 * holds an advisory lock and works in one transaction. The job queue brings its own schema up to date after it.
 * @returns the names of the migrations that were carried out now
 */
export async function migrateToLatest(databaseUrl: string): Promise<string[]> {
  const pool = createPool({
    url: databaseUrl,
    applicationName: 'warehouse-export migrate',
    maxConnections: 2,
    statementTimeoutMs: 0,
    onIdleError: () => {},
  });
  const db = createKysely(pool);
  try {
    const migrator = new Migrator({
      db,
      provider: new FileMigrationProvider({ fs, path, migrationFolder }),
    });
    const { error, results } = await migrator.migrateToLatest();
    if (error !== undefined) throw error;
    await installJobQueue(databaseUrl);
    return (results ?? []).map(result => result.migrationName);
  } finally {
    await db.destroy();
  }
}
