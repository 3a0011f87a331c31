/** A second gateway to the same store, for tests that kill a gateway. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { freePort } from '../../dev/free-port.ts';
import { s3Server } from './s3.ts';

export interface Gateway {
  readonly endpoint: string;
  readonly port: number;
  /** Sends SIGKILL. Resolves after the exit of the process. */
  readonly kill: () => Promise<void>;
}

const startLimitMs = 60_000;

/**
 * Starts the gateway.
 *
 * @param port port of a killed gateway to replace; default: a free port
 * @param options options of `radosgw`
 */
export async function startGateway(
  port?: number,
  options: readonly string[] = [],
): Promise<Gateway> {
  port ??= await freePort();
  const endpoint = `http://127.0.0.1:${port}`;
  const child = spawn(
    'radosgw',
    [
      '-c',
      s3Server().confFile,
      '-f',
      '-n',
      `client.rgw.lab-${port}`,
      `--rgw-frontends=beast endpoint=127.0.0.1:${port}`,
      ...options,
    ],
    { stdio: 'ignore' },
  );
  const kill = () => killAndWait(child);
  const deadline = Date.now() + startLimitMs;
  while (!(await answers(endpoint))) {
    if (Date.now() > deadline || child.exitCode !== null) {
      await kill();
      throw new Error('the second gateway did not start');
    }
    await delay(100);
  }
  return { endpoint, port, kill };
}

async function killAndWait(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}

async function answers(endpoint: string): Promise<boolean> {
  try {
    await (await fetch(endpoint, { headers: { connection: 'close' } })).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}
