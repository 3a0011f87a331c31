import { ConfigError, readDatabaseUrl } from '../config/config.ts';
import { describeDatabaseError } from '../db/check-database.ts';
import { migrateToLatest } from '../db/migrator.ts';

/** Migrates the database to the newest schema (`npm run migrate`). */
try {
  const names = await migrateToLatest(readDatabaseUrl(process.env));
  console.log(names.length === 0 ? 'The database is up to date.' : `Migrated: ${names.join(', ')}`);
} catch (error) {
  const line = error instanceof ConfigError ? error.message : describeDatabaseError(error);
  console.error(line === null ? error : `Not migrated: ${line}`);
  process.exitCode = 1;
}
