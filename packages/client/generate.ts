/**
 * Generates `src/generated` from `openapi.yaml` (`npm run openapi`). With `--check` it fails if the
 * folder would change.
 */
import { globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createClient } from '@hey-api/openapi-ts';

const committed = path.join(import.meta.dirname, 'src/generated');
const isCheck = process.argv.includes('--check');
// Inside the package, so that the generator finds the same configuration files.
const target = isCheck
  ? mkdtempSync(path.join(import.meta.dirname, 'node_modules/check-'))
  : committed;

try {
  await generate(target);
  if (isCheck && !areEqual(committed, target)) {
    console.error('The client differs from openapi.yaml: run npm run openapi');
    process.exitCode = 1;
  }
} finally {
  if (isCheck) rmSync(target, { recursive: true, force: true });
}

async function generate(folder: string): Promise<void> {
  await createClient({
    input: path.join(import.meta.dirname, '../../openapi.yaml'),
    output: { path: folder, module: { extension: '.ts' }, entryFile: false },
    logs: { level: 'silent' },
    // One type for each schema. Only inputs have members that answers lack, and they are schemas of
    // their own.
    parser: {
      transforms: { readWrite: false },
      // `downloadExport` and `uploadSnapshot` do this without the whole file in memory. An answer to
      // HEAD has only headers, which the generated functions do not return.
      filters: {
        // Webhooks and `uploadSnapshot` need schemas that no other operation uses.
        orphans: true,
        operations: {
          exclude: [
            '/^HEAD /',
            '/^GET .*\\/exports\\/\\{/',
            '/^GET \\/v1\\/downloads\\//',
            '/^PUT .*\\/snapshots\\//',
          ],
        },
      },
    },
    plugins: [
      '@hey-api/typescript',
      {
        name: '@hey-api/sdk',
        operations: { strategy: 'single', containerName: 'Api' },
        responseStyle: 'data',
      },
      { name: '@hey-api/client-fetch', throwOnError: true },
    ],
  });
  // These two folders are the generator's runtime. It does not depend on the API, and it does not
  // compile with `exactOptionalPropertyTypes`.
  for (const name of globSync('{client,core}/*.ts', { cwd: folder })) {
    const file = path.join(folder, name);
    writeFileSync(file, `// @ts-nocheck\n${readFileSync(file, 'utf8')}`);
  }
}

function areEqual(one: string, other: string): boolean {
  const [names, otherNames] = [one, other].map(cwd => globSync('**/*.ts', { cwd }).sort());
  return (
    JSON.stringify(names) === JSON.stringify(otherNames) &&
    (names ?? []).every(
      name =>
        readFileSync(path.join(one, name), 'utf8') === readFileSync(path.join(other, name), 'utf8'),
    )
  );
}
