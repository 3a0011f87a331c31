import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';

/**
 * Returns the options of a test that needs a program. The test is skipped with a message if it is
 * not installed.
 *
 * @returns options of `t.test`
 */
export function needsProgram(name: string): { readonly skip: string | false } {
  const isInstalled = spawnSync('sh', ['-c', `command -v ${name}`]).status === 0;
  return { skip: isInstalled ? false : `${name} is not installed` };
}

export interface RunningProgram {
  readonly child: ChildProcess;
  /** Resolves with the exit code, or with the signal that ended the program. */
  readonly ended: Promise<number | NodeJS.Signals>;
  stdout(): string;
  stderr(): string;
}

/** Starts a program and ends it with the test. */
export function startProgram(
  t: { teardown(handler: () => Promise<void>): void },
  name: string,
  args: readonly string[],
  options: { readonly cwd?: string; readonly env?: NodeJS.ProcessEnv } = {},
): RunningProgram {
  const child = spawn(name, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  let stderr = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  // After this event, both outputs are complete.
  const exited = once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>;
  const ended = exited.then(([code, signal]) => code ?? signal ?? 'SIGKILL');
  t.teardown(async () => {
    // SIGTERM lets nginx end its worker processes. A stopped program must continue to receive it.
    child.kill('SIGCONT');
    child.kill('SIGTERM');
    await ended;
  });
  return { child, ended, stdout: () => stdout, stderr: () => stderr };
}
