/** Runs every check in turn (`npm run check`). The exit code is 0 only if all checks pass. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { stripVTControlCharacters } from 'node:util';

const root = path.join(import.meta.dirname, '..');

type Check = () => { ok: boolean; output: string };

/**
 * Returns a check that runs a script of node_modules with the current Node. Links in `.bin` cannot
 * be used: they are shell scripts on some systems.
 */
function tool(script: string, ...args: string[]): Check {
  return () => {
    const env = {
      ...process.env,
      REDOCLY_TELEMETRY: 'off',
      REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true',
      NO_COLOR: '1',
    };
    const { status, stdout, stderr, error } = spawnSync(process.execPath, [script, ...args], {
      cwd: root,
      env,
      encoding: 'utf8',
      maxBuffer: 64 * 1024 * 1024,
    });
    return { ok: status === 0, output: `${stdout ?? ''}${stderr ?? ''}${error?.message ?? ''}` };
  };
}

const checks: Readonly<Record<string, Check>> = {
  'format, lint, import cycles': tool(
    'node_modules/@biomejs/biome/bin/biome',
    'ci',
    '--error-on-warnings',
    '.',
  ),
  types: tool('node_modules/typescript/bin/tsc', '--noEmit', '--project', '.'),
  'unused files, exports, dependencies': tool('node_modules/knip/bin/knip.js'),
  'import rules': tool(
    'node_modules/dependency-cruiser/bin/dependency-cruiser.mjs',
    '--config',
    '.dependency-cruiser.cjs',
    'src',
  ),
  'configuration documents equal the schema': tool('src/cli/write-configuration.ts', '--check'),
  'openapi.yaml equals the code': tool('src/cli/write-openapi.ts', '--check'),
  'plain English': tool('scripts/check-prose.ts'),
  'openapi.yaml is sound': tool('node_modules/@redocly/cli/bin/cli.js', 'lint', 'openapi.yaml'),
  'the client equals openapi.yaml': tool('packages/client/generate.ts', '--check'),
  'types of the client': tool('node_modules/typescript/bin/tsc', '--project', 'packages/client'),
  'types of the settings page': tool(
    'node_modules/typescript/bin/tsc',
    ...['--project', 'examples/settings-page'],
  ),
  'another generator can read openapi.yaml': tool('scripts/check-generator.ts'),
};

const failed: string[] = [];
for (const [name, check] of Object.entries(checks)) {
  const startedAt = performance.now();
  const { ok, output } = check();
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  console.log(`${ok ? 'ok    ' : 'FAILED'}  ${name} (${seconds} s)`);
  if (!ok) {
    console.log(`\n${stripVTControlCharacters(output).trim()}\n`);
    failed.push(name);
  }
}
console.log(
  failed.length === 0 ? 'All checks passed.' : `${failed.length} failed: ${failed.join('; ')}`,
);
process.exitCode = failed.length === 0 ? 0 : 1;
