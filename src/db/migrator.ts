import { promises as fs } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { FileMigrationProvider, Migrator } from 'kysely/migration';
import { DatabaseError } from 'pg';
import { checkDatabase } from './check-database.ts';
import { createKysely, createPool } from './connect.ts';
import { installJobQueue } from './job-queue.ts';

/** Directory of the migration files. */
export const migrationFolder = path.join(import.meta.dirname, '../../migrations');

/**
 * Longest wait for a lock. Statements of the service queue behind the waiting one, so they wait at
 * most this long.
 */
const lockTimeoutMs = 1_000;
/** Pause before the next try, in which the service gets the lock. */
const pauseMs = 2_000;
/** Longest time for all tries. */
const patienceMs = 30 * 60_000;

/**
 * Migrates the database to the newest schema, forward only. Several processes may call it at once:
 * Kysely's migrator holds an advisory lock and works in one transaction. Afterwards pg-boss updates
 * its schema.
 *
 * @returns the names of the migrations that were applied now
 * @throws {UnsuitableDatabaseError} if the database can never be used
 */
export async function migrateToLatest(databaseUrl: string): Promise<string[]> {
  await checkDatabase(databaseUrl);
  const pool = createPool({
    url: databaseUrl,
    applicationName: 'warehouse-export migrate',
    maxConnections: 2,
    statementTimeoutMs: 0,
    lockTimeoutMs,
    onIdleError: () => {},
  });
  const db = createKysely(pool);
  try {
    const migrator = new Migrator({
      db,
      provider: new FileMigrationProvider({ fs, path, migrationFolder }),
    });
    const names = await migrateGivingWay(migrator);
    await installJobQueue(databaseUrl);
    return names;
  } finally {
    await db.destroy();
  }
}

async function migrateGivingWay(migrator: Migrator): Promise<string[]> {
  const deadline = Date.now() + patienceMs;
  for (;;) {
    const { error, results } = await migrator.migrateToLatest();
    if (error === undefined) return (results ?? []).map(result => result.migrationName);
    if (!isHeldUp(error) || Date.now() > deadline) throw error;
    await delay(pauseMs);
  }
}

/**
 * Returns true for lock_not_available and deadlock_detected. Codes:
 * https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
function isHeldUp(error: unknown): boolean {
  return error instanceof DatabaseError && ['55P03', '40P01'].includes(error.code ?? '');
}
