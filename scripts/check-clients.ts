/**
 * Generates clients from `openapi.yaml` with two generators, and compiles them. Fails if a generator
 * or the compiler does.
 *
 * openapi-typescript stays at version 6: version 7 needs TypeScript 5 as a peer.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const root = path.join(import.meta.dirname, '..');
// Inside node_modules, so that the clients find the runtime that they import.
const folder = path.join(root, 'node_modules/.cache/clients');
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });

const compilerOptions = {
  ...{ strict: true, noEmit: true, skipLibCheck: true, types: [] },
  ...{ target: 'es2024', module: 'nodenext', lib: ['es2024', 'dom', 'dom.iterable'] },
};
const files = ['functions.ts', 'types.ts'];
const project = path.join(folder, 'tsconfig.json');
writeFileSync(project, JSON.stringify({ compilerOptions, files }));

const [functions = '', types = ''] = files.map(name => path.join(folder, name));
run('oazapfts/dist/cli.js', 'openapi.yaml', functions);
run('openapi-typescript/bin/cli.js', 'openapi.yaml', '--output', types);
run('typescript/bin/tsc', '--project', project);

function run(script: string, ...args: string[]): void {
  const { status } = spawnSync(
    process.execPath,
    [path.join(root, 'node_modules', script), ...args],
    { cwd: root, stdio: 'inherit' },
  );
  if (status !== 0) process.exit(1);
}
