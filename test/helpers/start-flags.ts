import fs from 'node:fs';
import path from 'node:path';

const manifest = path.join(import.meta.dirname, '../../package.json');

/** Returns the options of Node in `npm start`. They limit the memory of the service. */
export function startFlags(): string[] {
  const { scripts } = JSON.parse(fs.readFileSync(manifest, 'utf8'));
  return (scripts.start as string).split(' ').filter(word => word.startsWith('--'));
}

/** Returns the variable with which a started process shares the compile cache of the test run. */
export function compileCache(): Record<string, string> {
  const directory = process.env['NODE_COMPILE_CACHE'];
  return directory === undefined ? {} : { NODE_COMPILE_CACHE: directory };
}
