import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { buildApp } from '../app.ts';
import { readConfig } from '../config/config.ts';
import { createDependencies } from '../dependencies.ts';
import { createLogger } from '../observability/logger.ts';

/**
 * Writes `openapi.yaml` from the route schemas (`npm run openapi`). With `--check` it fails if the
 * file would change.
 */
const file = path.join(import.meta.dirname, '../../openapi.yaml');

// Only route schemas are read, so no connection is opened.
const config = readConfig({
  DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none',
  ADMIN_TOKEN: 'x'.repeat(32),
  ENCRYPTION_KEYS: `none:${Buffer.alloc(32).toString('base64')}`,
  LOG_LEVEL: 'silent',
});
const dependencies = createDependencies(config, createLogger(config));
const app = await buildApp(dependencies);
await app.ready();
const document = app.swagger({ yaml: true });
await app.close();
await dependencies.close();

if (process.argv.includes('--check')) {
  const committed = await readFile(file, 'utf8').catch(() => '');
  if (committed !== document) {
    console.error('openapi.yaml differs from the route schemas: run npm run openapi');
    process.exitCode = 1;
  }
} else {
  await writeFile(file, document);
}
