import { ConfigError, readDatabaseUrl } from '../config/config.ts';
import { migrateToLatest } from '../db/migrator.ts';

try {
  const names = await migrateToLatest(readDatabaseUrl(process.env));
  console.log(names.length === 0 ? 'The database is up to date.' : `Migrated: ${names.join(', ')}`);
} catch (error) {
  console.error(error instanceof ConfigError ? error.message : error);
  process.exitCode = 1;
}
