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
 * most this long. A migration that waits twice while it holds a lock must end before a statement
 * that waits for it looks for a deadlock and fails. Postgres does that after 1 s by default:
 * https://www.postgresql.org/docs/current/runtime-config-locks.html
 */
const lockTimeoutMs = 300;
/** Pause before the next try, in which the service gets the lock. */
const pauseMs = 2_000;
/** Longest time for all tries. */
const timeoutMs = 30 * 60_000;

/**
 * Migrates the database to the newest schema, forward only. Several processes may call it at once,
 * because Kysely's migrator holds an advisory lock. Each migration is a transaction of its own, so
 * that it locks few tables. Afterwards pg-boss updates its schema.
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
  const deadline = Date.now() + timeoutMs;
  const names: string[] = [];
  for (;;) {
    const { error, results = [] } = await migrator.migrateUp();
    if (error === undefined) {
      if (results.length === 0) return names;
      names.push(...results.map(result => result.migrationName));
    } else if (isHeldUp(error) && Date.now() <= deadline) {
      await delay(pauseMs);
    } else {
      throw error;
    }
  }
}

/**
 * Returns true for lock_not_available and deadlock_detected. Codes:
 * https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
function isHeldUp(error: unknown): boolean {
  return error instanceof DatabaseError && ['55P03', '40P01'].includes(error.code ?? '');
}
