/**
 * Builds the package for npm in `dist`: JavaScript modules and their types
 * (`npm run build --workspace @warehouse-export/client`). An argument names another folder. Inside
 * this repository Node needs no build, because it runs the TypeScript sources.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const folder = import.meta.dirname;
const root = path.join(folder, '../..');
const dist = process.argv[2] ?? path.join(folder, 'dist');

rmSync(dist, { recursive: true, force: true });
execFileSync(
  process.execPath,
  [
    path.join(root, 'node_modules/typescript/lib/tsc.js'),
    ...['--project', folder, '--noEmit', 'false', '--outDir', dist],
    ...['--rootDir', path.join(folder, 'src')],
    ...['--declaration', '--rewriteRelativeImportExtensions'],
  ],
  { stdio: 'inherit' },
);
const {
  private: _,
  devDependencies: __,
  scripts: ___,
  ...manifest
} = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
const exports = { '.': { types: './index.d.ts', default: './index.js' } };
writeFileSync(path.join(dist, 'package.json'), JSON.stringify({ ...manifest, exports }, null, 2));
copyFileSync(path.join(folder, 'README.md'), path.join(dist, 'README.md'));
copyFileSync(path.join(root, 'LICENSE'), path.join(dist, 'LICENSE'));
