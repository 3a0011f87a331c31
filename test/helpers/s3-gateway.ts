/** A second gateway to the same store, for tests that kill a gateway. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { freePort } from '../../dev/free-port.ts';
import { s3Server } from './s3.ts';
import { waitFor } from './wait-for.ts';

export interface Gateway {
  readonly endpoint: string;
  readonly port: number;
  /**
   * Sends SIGTERM. Resolves after the exit of the process, also if it was killed before. For
   * teardowns: the store waits up to 30 s for a killed gateway at the next change of a bucket.
   */
  readonly stop: () => Promise<void>;
  /** Sends SIGKILL. Resolves after the exit of the process. */
  readonly kill: () => Promise<void>;
  /** Starts a killed gateway again, at the same port. */
  readonly restart: () => Promise<void>;
}

/** Options of a gateway that encrypts with the KMS key `testkey-1`, over HTTP too. */
export const kmsOptions = [
  '--rgw-crypt-s3-kms-backend=testing',
  `--rgw-crypt-s3-kms-encryption-keys=testkey-1=${Buffer.alloc(32, 7).toString('base64')}`,
  '--rgw-crypt-require-ssl=false',
] as const;

const startLimitMs = 60_000;

/** @param options options of `radosgw` */
export async function startGateway(options: readonly string[] = []): Promise<Gateway> {
  const port = await freePort();
  const endpoint = `http://127.0.0.1:${port}`;
  let child = await startProcess(port, options);
  return {
    endpoint,
    port,
    stop: () => end(child, 'SIGTERM'),
    kill: () => end(child, 'SIGKILL'),
    restart: async () => {
      child = await startProcess(port, options);
    },
  };
}

async function startProcess(port: number, options: readonly string[]): Promise<ChildProcess> {
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
  const isReady = async () => {
    if (child.exitCode !== null) throw new Error(`radosgw ended with ${child.exitCode}`);
    return await answers(`http://127.0.0.1:${port}`);
  };
  try {
    await waitFor('the second gateway', isReady, { limitMs: startLimitMs });
  } catch (error) {
    await end(child, 'SIGKILL');
    throw error;
  }
  return child;
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill(signal);
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
