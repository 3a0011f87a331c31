import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { freePort } from '../dev/free-port.ts';
import { startFlags } from '../test/helpers/start-flags.ts';
import { waitFor } from '../test/helpers/wait-for.ts';
import { cpuSeconds, residentMiB } from './proc.ts';

/** The service in a separate process, as an operator starts it. */
export interface Service {
  readonly origin: string;
  readonly token: string;
  /**
   * Sends a request.
   *
   * @throws if the answer is not a success
   */
  call(path: string, init?: { method?: string; json?: unknown }): Promise<unknown>;
  /** Returns the current resident memory in MiB. */
  residentMiB(): number;
  /** Returns the CPU time since the start. */
  cpuSeconds(): number;
  stop(): Promise<void>;
}

export interface ServiceOptions {
  readonly databaseUrl: string;
  /** Directory for log files. The caller removes it. */
  readonly directory: string;
  readonly env?: Readonly<Record<string, string>>;
}

const root = path.join(import.meta.dirname, '..');

export async function startService({
  databaseUrl,
  directory,
  env,
}: ServiceOptions): Promise<Service> {
  const port = await freePort();
  const token = `bench-${randomBytes(24).toString('hex')}`;
  const logFile = fs.openSync(path.join(directory, `service-${port}.log`), 'w');
  const child = spawn(process.execPath, [...startFlags(), path.join(root, 'src/main.ts')], {
    env: {
      PATH: process.env['PATH'],
      DATABASE_URL: databaseUrl,
      ADMIN_TOKEN: token,
      ENCRYPTION_KEYS: `bench:${randomBytes(32).toString('base64')}`,
      PORT: String(port),
      PROCESS_ROLE: 'api',
      LOG_LEVEL: 'info',
      ...env,
    },
    stdio: ['ignore', logFile, 'inherit'],
  });
  fs.closeSync(logFile);
  // Kills the service if the bench exits in the middle.
  const lastResort = () => child.kill('SIGKILL');
  process.once('exit', lastResort);
  child.once('exit', () => process.off('exit', lastResort));
  const origin = `http://127.0.0.1:${port}`;
  await untilReady(child, origin);
  return {
    origin,
    token,
    async call(where, { method = 'GET', json } = {}) {
      const answer = await fetch(origin + where, {
        method,
        headers: {
          authorization: `Bearer ${token}`,
          ...(json === undefined ? {} : { 'content-type': 'application/json' }),
        },
        ...(json === undefined ? {} : { body: JSON.stringify(json) }),
      });
      const text = await answer.text();
      if (!answer.ok) throw new Error(`${method} ${where}: ${answer.status} ${text}`);
      return text === '' ? null : JSON.parse(text);
    },
    cpuSeconds: () => cpuSeconds(child.pid ?? 0),
    residentMiB: () => residentMiB(child.pid ?? 0),
    stop: () => stop(child),
  };
}

async function untilReady(child: ChildProcess, origin: string): Promise<void> {
  await waitFor('the readiness of the service', async () => {
    if (child.exitCode !== null) throw new Error(`the service ended with ${child.exitCode}`);
    return await fetch(`${origin}/health/ready`).then(
      ({ ok }) => ok,
      () => false,
    );
  });
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGTERM');
  const late = setTimeout(() => child.kill('SIGKILL'), 35_000);
  await once(child, 'exit');
  clearTimeout(late);
}
