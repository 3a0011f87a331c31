/**
 * The house's rules of who may import whom, read from the import lines of `src`:
 * folders depend on each other one way only, and only named places know Fastify, Kysely and the process environment.
 */
import fs from 'node:fs';
import path from 'node:path';

/** What a folder may import beside itself and `errors.ts`. A folder that is not listed may not be imported at all. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  db: [],
  audit: ['db'],
  destinations: ['db'],
  webhooks: ['destinations', 'audit', 'db'],
  environments: ['webhooks', 'audit', 'db'],
  snapshots: ['environments', 'audit', 'db'],
  retention: ['snapshots', 'audit', 'db'],
  exports: ['snapshots', 'environments', 'db'],
  'automatic-exports': [
    'exports',
    'retention',
    'snapshots',
    'environments',
    'webhooks',
    'destinations',
    'audit',
    'db',
  ],
  http: ['environments', 'audit', 'db'],
};

/** Put the parts together, so no part may know them. */
const roots = ['app.ts', 'main.ts', 'serve.ts', 'dependencies.ts'];

/** Packages that one file, or a few, stand between and the rest. */
const knownBy: readonly { readonly packages: RegExp; readonly files: readonly string[] }[] = [
  { packages: /^prom-client$/, files: ['http/prometheus.ts'] },
  { packages: /^@opentelemetry\/api$/, files: ['trace.ts', 'start-tracing.ts'] },
  { packages: /^@opentelemetry\//, files: ['start-tracing.ts'] },
];

/** Besides files that are named after a table or end in `-sql`. */
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

export interface Project {
  readonly files: readonly SourceFile[];
  readonly tables: readonly string[];
  /** Files that package.json's scripts start: like main.ts they may use what puts the parts together. */
  readonly programs: readonly string[];
}

/** @returns one line for each import that breaks a rule */
export function importFaults(project: Project): string[] {
  return project.files.flatMap(file => {
    const rules = rulesFor(file.path, project);
    const faults = importsOf(file.text).flatMap(specifier => rules(specifier) ?? []);
    if (readsEnvironment(file)) faults.push('reads process.env, which only config.ts does');
    return faults.map(fault => `src/${file.path}: ${fault}`);
  });
}

export function readProject(root: string): Project {
  const src = path.join(root, 'src');
  const names = fs.globSync('**/*.ts', { cwd: src }).map(name => name.replaceAll(path.sep, '/'));
  const files = names
    .sort()
    .map(name => ({ path: name, text: fs.readFileSync(path.join(src, name), 'utf8') }));
  const declared = files.find(file => file.path === 'db/tables.ts')?.text ?? '';
  const packageJson = fs.readFileSync(path.join(root, 'package.json'), 'utf8');
  return {
    files,
    tables: allOf(declared, /^ {2}(\w+): \w+Table;$/gm),
    programs: allOf(packageJson, /"(?:exec )?node src\/(\S+\.ts)"/g),
  };
}

type Rule = (specifier: string) => string | null;

function rulesFor(file: string, { tables, programs }: Project): Rule {
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
      const only = knownBy.find(({ packages }) => packages.test(specifier))?.files ?? [file];
      return only.includes(file) ? null : `imports ${specifier}, which only ${only.join(' and ')} know`;
    }
    const target = path.posix.join(path.posix.dirname(file), specifier);
    const targetFolder = folderOf(target);
    if (targetFolder === 'demo' && folder !== 'demo') return `imports ${target}: nothing depends on the demo`;
    if (isComposition || targetFolder === folder) return null;
    if (targetFolder === '') {
      if (!roots.includes(target) || programs.includes(file)) return null;
      return `imports ${target}, which puts the parts together`;
    }
    if (targetFolder === 'http' && isRoutes) return null;
    if (mayImport[folder]?.includes(targetFolder)) return null;
    return `imports ${target}: ${folder} does not depend on ${targetFolder}`;
  };
}

function folderOf(file: string): string {
  return file.includes('/') ? (file.split('/')[0] ?? '') : '';
}

/** Named after a table (`environments.ts`, `runs.ts` for `export_runs`) or for SQL (`select-rows.ts`, `staging-sql.ts`). */
function isNamedForSql(file: string, tables: readonly string[]): boolean {
  const name = path.posix.basename(file, '.ts');
  const table = name.replaceAll('-', '_');
  if (tables.some(candidate => candidate === table || candidate.endsWith(`_${table}`))) return true;
  return name.endsWith('-sql') || sqlVerbs.includes(name.split('-')[0] ?? '');
}

/** Static, dynamic and type imports, and re-exports. */
function importsOf(text: string): string[] {
  return allOf(text, /(?:\bfrom|\bimport)\s*\(?\s*['"]([^'"]+)['"]/g);
}

function allOf(text: string, pattern: RegExp): string[] {
  return [...text.matchAll(pattern)].flatMap(([, found]) => found ?? []);
}

/** Handing `process.env` on to config.ts is what an entry point does; looking inside is not. */
function readsEnvironment(file: SourceFile): boolean {
  return file.path !== 'config.ts' && !file.path.startsWith('demo/') && /process\.env\s*[.[]/.test(file.text);
}
