/**
 * The house's rules of who may import whom, read from the import lines of `src`:
 * folders depend on each other one way only, and only named places know Fastify, Kysely and the process environment.
 */
import fs from 'node:fs';
import path from 'node:path';

/** What a folder may import beside itself and `errors.ts`. A folder that is not listed may not be imported at all. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  db: [],
  environments: ['db'],
  snapshots: ['environments', 'db'],
  exports: ['snapshots', 'environments', 'db'],
  destinations: ['db'],
  'automatic-exports': ['exports', 'snapshots', 'environments', 'destinations', 'db'],
  http: ['environments', 'db'],
};

/** Put the parts together, so no part may know them. */
const roots = ['app.ts', 'main.ts', 'dependencies.ts'];

/** Besides files that are named after a table. */
const sqlVerbs = [
  'select',
  'insert',
  'update',
  'delete',
  'upsert',
  'copy',
  'lock',
  'load',
  'list',
  'enqueue',
  'drop',
];

export interface SourceFile {
  /** Relative to `src`, with forward slashes. */
  readonly path: string;
  readonly text: string;
}

/** @returns one line for each import that breaks a rule */
export function importFaults(files: readonly SourceFile[], tables: readonly string[]): string[] {
  return files.flatMap(file => {
    const rules = rulesFor(file.path, tables);
    const faults = importsOf(file.text).flatMap(specifier => rules(specifier) ?? []);
    if (readsEnvironment(file)) faults.push('reads process.env, which only config.ts does');
    return faults.map(fault => `src/${file.path}: ${fault}`);
  });
}

/** The source files of the project and the names of its tables. */
export function readSources(src: string): { files: SourceFile[]; tables: string[] } {
  const names = fs.globSync('**/*.ts', { cwd: src }).map(name => name.replaceAll(path.sep, '/'));
  const files = names
    .sort()
    .map(name => ({ path: name, text: fs.readFileSync(path.join(src, name), 'utf8') }));
  const declared = files.find(file => file.path === 'db/tables.ts')?.text ?? '';
  const tables = [...declared.matchAll(/^ {2}(\w+): \w+Table;$/gm)].flatMap(([, name]) => name ?? []);
  return { files, tables };
}

type Rule = (specifier: string) => string | null;

function rulesFor(file: string, tables: readonly string[]): Rule {
  const folder = folderOf(file);
  const isRoutes = /(^|[/-])routes\.ts$/.test(file);
  const isComposition = folder === '' || folder === 'demo';
  const knowsFastify =
    folder === 'http' || folder === 'demo' || isRoutes || ['app.ts', 'main.ts'].includes(file);
  const knowsKysely = folder === 'db' || isNamedForSql(file, tables);

  return specifier => {
    if (!specifier.startsWith('.')) {
      if (/^(@fastify\/|fastify\b)/.test(specifier) && !knowsFastify) {
        return `imports ${specifier}, which only http/, *routes.ts, app.ts and main.ts know`;
      }
      if (/^kysely\b/.test(specifier) && !knowsKysely) {
        return `imports ${specifier}, which only db/ and files named for their SQL know`;
      }
      return null;
    }
    const target = path.posix.join(path.posix.dirname(file), specifier);
    const targetFolder = folderOf(target);
    if (targetFolder === 'demo' && folder !== 'demo') return `imports ${target}: nothing depends on the demo`;
    if (isComposition || targetFolder === folder) return null;
    if (targetFolder === '')
      return roots.includes(target) ? `imports ${target}, which puts the parts together` : null;
    if (targetFolder === 'http' && isRoutes) return null;
    if (mayImport[folder]?.includes(targetFolder)) return null;
    return `imports ${target}: ${folder} does not depend on ${targetFolder}`;
  };
}

function folderOf(file: string): string {
  return file.includes('/') ? (file.split('/')[0] ?? '') : '';
}

/** Named after a table (`environments.ts`, `runs.ts` for `export_runs`) or with an SQL verb (`select-rows.ts`). */
function isNamedForSql(file: string, tables: readonly string[]): boolean {
  const name = path.posix.basename(file, '.ts');
  const table = name.replaceAll('-', '_');
  if (tables.some(candidate => candidate === table || candidate.endsWith(`_${table}`))) return true;
  return sqlVerbs.includes(name.split('-')[0] ?? '');
}

/** Static, dynamic and type imports, and re-exports. */
function importsOf(text: string): string[] {
  const pattern = /(?:\bfrom|\bimport)\s*\(?\s*['"]([^'"]+)['"]/g;
  return [...text.matchAll(pattern)].flatMap(([, specifier]) => specifier ?? []);
}

/** Handing `process.env` on to config.ts is what an entry point does; looking inside is not. */
function readsEnvironment(file: SourceFile): boolean {
  return file.path !== 'config.ts' && !file.path.startsWith('demo/') && /process\.env\s*[.[]/.test(file.text);
}
