import { type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';

/**
 * Runs a program to its end.
 *
 * @param options.signal kills the program and all processes that it started
 * @throws {Error} with the end of its stderr if it fails; the signal's reason after an abort. No
 *   process is left then, so the caller can delete their files.
 */
export async function runProgram(
  command: string,
  args: readonly string[],
  { signal, ...options }: SpawnOptions = {},
): Promise<void> {
  signal?.throwIfAborted();
  const child = spawn(command, args, {
    ...options,
    // A separate process group, which can be killed as a whole.
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let errors = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    errors = (errors + text).slice(-2_000);
  });
  const abort = () => {
    const isRunning = child.exitCode === null && child.signalCode === null;
    if (isRunning && child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  };
  signal?.addEventListener('abort', abort);
  try {
    // All processes of the group have stderr open, so the event follows the end of all.
    const [code] = (await once(child, 'close')) as [number | null];
    signal?.throwIfAborted();
    if (code !== 0) throw new Error(`${path.basename(command)} failed: ${errors.trim()}`);
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}
