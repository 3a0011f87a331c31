import { ConfigError, readConfig } from '../config/config.ts';
import { createKysely, createPool } from '../db/connect.ts';
import { resealSecrets } from '../encryption/rotation.sql.ts';

/**
 * Encrypts every stored secret with the first key of ENCRYPTION_KEYS (`npm run secrets:rotate`).
 * The service may run meanwhile.
 */
try {
  const config = readConfig(process.env);
  const pool = createPool({
    url: config.databaseUrl,
    applicationName: 'warehouse-export rotate',
    maxConnections: 1,
    statementTimeoutMs: 30_000,
    onIdleError: () => {},
  });
  const db = createKysely(pool);
  try {
    const { moved, total, unreadable } = await resealSecrets(db, config.encryptionKeys);
    console.log(`Moved ${moved} of ${total} secrets to the key "${config.encryptionKeys[0].id}".`);
    if (unreadable > 0) {
      console.error(
        `${unreadable} could not be read: the key that sealed them is not in ENCRYPTION_KEYS.`,
      );
      process.exitCode = 1;
    }
  } finally {
    await db.destroy();
  }
} catch (error) {
  console.error(error instanceof ConfigError ? error.message : error);
  process.exitCode = 1;
}
