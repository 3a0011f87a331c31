import fs from 'node:fs';
import path from 'node:path';

const manifest = path.join(import.meta.dirname, '../../package.json');

/** What `npm start` tells Node: they decide how much memory the service takes. */
export function startFlags(): string[] {
  const { scripts } = JSON.parse(fs.readFileSync(manifest, 'utf8'));
  return (scripts.start as string).split(' ').filter(word => word.startsWith('--'));
}
