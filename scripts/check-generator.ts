/**
 * Generates a client from `openapi.yaml` with oazapfts and compiles it. The project's client comes
 * from another generator, so two generators with different rules read the document.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const root = path.join(import.meta.dirname, '..');
// Inside node_modules, so that the client finds the runtime that it imports.
const folder = path.join(root, 'node_modules/.cache/clients');
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });

const compilerOptions = {
  ...{ strict: true, noEmit: true, skipLibCheck: true, types: [] },
  ...{ target: 'es2024', module: 'nodenext', lib: ['es2024', 'dom', 'dom.iterable'] },
};
const client = path.join(folder, 'client.ts');
const project = path.join(folder, 'tsconfig.json');
writeFileSync(project, JSON.stringify({ compilerOptions, files: [client] }));

run('oazapfts/dist/cli.js', 'openapi.yaml', client);
run('typescript/bin/tsc', '--project', project);

function run(script: string, ...args: string[]): void {
  const { status } = spawnSync(
    process.execPath,
    [path.join(root, 'node_modules', script), ...args],
    { cwd: root, stdio: 'inherit' },
  );
  if (status !== 0) process.exit(1);
}
