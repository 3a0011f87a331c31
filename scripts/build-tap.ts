import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

/**
 * Runs `tap build`, which builds tap with the plugins that package.json names. The build replaces
 * files of tap, so it must not run during a test. A marker file skips it until package.json
 * changes.
 */
const root = path.join(import.meta.dirname, '..');
const marker = path.join(root, 'node_modules/.cache/tap-built');
const wanted = readFileSync(path.join(root, 'package.json'), 'utf8');

if (readMarker() !== wanted) {
  execFileSync('tap', ['build'], { cwd: root, stdio: 'inherit' });
  mkdirSync(path.dirname(marker), { recursive: true });
  writeFileSync(marker, wanted);
}

function readMarker(): string | null {
  try {
    return readFileSync(marker, 'utf8');
  } catch {
    return null;
  }
}
