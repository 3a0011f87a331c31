import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

/**
 * `tap build` fits tap to the plugins that package.json names. It takes tap apart while it works, so it must not run beside
 * a test; and once done for these versions it need not run again.
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
