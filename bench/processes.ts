import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { timed } from './measure.ts';
import type { Service } from './service.ts';

/** Returns true if a program is installed. */
export function hasProgram(name: string): boolean {
  return spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0;
}

/**
 * Runs a shell pipeline until its last program ends.
 *
 * @returns seconds
 */
export async function shell(
  script: string,
  env: Readonly<Record<string, string>> = {},
): Promise<number> {
  return await timed(async () => {
    const child = spawn('bash', ['-o', 'pipefail', '-c', script], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    await succeeded(child, script);
  });
}

/**
 * Runs a script of this folder in a separate process.
 *
 * @returns its output, parsed as JSON
 */
export async function script<T>(
  name: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
  signal?: AbortSignal,
): Promise<T> {
  const child = spawn(process.execPath, [path.join(import.meta.dirname, name), ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
    ...(signal && { signal }),
  });
  let printed = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    printed += text;
  });
  await succeeded(child, name);
  return JSON.parse(printed) as T;
}

/** Downloads a file in a separate process and discards it. */
export async function download(
  service: Service,
  where: string,
  options: { encoding?: 'identity' | 'gzip'; bytesPerSecond?: number; signal?: AbortSignal } = {},
): Promise<{ seconds: number; bytes: number }> {
  const { encoding = 'identity', bytesPerSecond, signal } = options;
  const pace = bytesPerSecond === undefined ? [] : [String(bytesPerSecond)];
  return await script(
    'read-url.ts',
    [service.origin + where, encoding, ...pace],
    { TOKEN: service.token },
    signal,
  );
}

async function succeeded(child: ChildProcess, what: string): Promise<void> {
  const [code, signal] = await once(child, 'close');
  if (code !== 0) throw new Error(`${what} ended with ${code ?? signal}`);
}
