import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { configurationPage, envExample } from '../config/documents.ts';

/**
 * Writes the documents that are generated from the schema of the variables (`npm run
 * configuration`). With `--check` it fails if one would change.
 */
const root = path.join(import.meta.dirname, '../..');
const documents = { '.env.example': envExample(), 'docs/configuration.md': configurationPage() };

for (const [name, text] of Object.entries(documents)) {
  const file = path.join(root, name);
  if (!process.argv.includes('--check')) {
    await writeFile(file, text);
  } else if ((await readFile(file, 'utf8').catch(() => '')) !== text) {
    console.error(`${name} differs from src/config/variables.ts: run npm run configuration`);
    process.exitCode = 1;
  }
}
