import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { freePort } from '../../dev/free-port.ts';
import { ask } from './http-client.ts';
import { testAdminToken, testEncryptionKeys } from './secrets.ts';
import { compileCache, startFlags } from './start-flags.ts';
import { waitFor } from './wait-for.ts';

export interface ServiceProcess {
  readonly pid: number;
  /** Returns the lines logged so far. */
  logged(): Readonly<Record<string, unknown>>[];
  signal(signal: 'SIGTERM' | 'SIGINT'): void;
  /**
   * Sends the signal and waits for the exit.
   *
   * @returns the exit code, or the signal that ended the process
   */
  end(signal: 'SIGTERM' | 'SIGKILL'): Promise<number | NodeJS.Signals>;
  /** Resolves at the exit of the process, with its exit code or signal. */
  readonly ended: Promise<number | NodeJS.Signals>;
}

export interface ApiProcess extends ServiceProcess {
  /** `http://127.0.0.1:<port>` */
  readonly origin: string;
  readonly port: number;
}

const main = path.join(import.meta.dirname, '../../src/main.ts');
const mainWithClock = path.join(import.meta.dirname, 'service-with-clock.ts');
let processes = 0;
/** Time limit of the start, which also suffices on a busy machine. */
const startLimitMs = 90_000;

/**
 * Starts the service in a separate process, as `npm start` does. Uses the test's clock if
 * `TEST_CLOCK_FILE` is in `env`.
 */
export function startServiceProcess(
  databaseUrl: string,
  env: Readonly<Record<string, string>> = {},
): ServiceProcess {
  // `test/run.ts` searches this directory for secrets.
  const directory = process.env['TEST_LOG_DIRECTORY'] ?? os.tmpdir();
  processes += 1;
  const logFile = path.join(directory, `process-${process.pid}-${processes}`);
  const log = fs.openSync(logFile, 'a');
  const program = env['TEST_CLOCK_FILE'] === undefined ? main : mainWithClock;
  const child: ChildProcess = spawn(process.execPath, [...startFlags(), program], {
    env: {
      DATABASE_URL: databaseUrl,
      ADMIN_TOKEN: testAdminToken,
      ENCRYPTION_KEYS: testEncryptionKeys.first,
      S3_ENDPOINT_ALLOWLIST: '127.0.0.1',
      RATE_LIMIT_PER_CALLER: '0',
      RATE_LIMIT_FAILED_LOGINS: '0',
      PORT: '0',
      ...compileCache(),
      ...env,
    },
    stdio: ['ignore', log, log],
  });
  fs.closeSync(log);
  const exited = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>;
  const ended = exited.then(([code, endedBy]) => code ?? endedBy ?? 'SIGKILL');
  return {
    pid: child.pid ?? 0,
    logged: () => fs.readFileSync(logFile, 'utf8').split('\n').flatMap(parseLine),
    signal: signal => child.kill(signal),
    ended,
    async end(signal) {
      child.kill(signal);
      return await ended;
    },
  };
}

/** Starts the service and waits until it is ready. */
export async function startApiProcess(
  databaseUrl: string,
  env: Readonly<Record<string, string>> = {},
): Promise<ApiProcess> {
  const port = env['PORT'] === undefined ? await freePort() : Number(env['PORT']);
  const service = startServiceProcess(databaseUrl, {
    PROCESS_ROLE: 'api',
    ...env,
    PORT: String(port),
  });
  const origin = `http://127.0.0.1:${port}`;
  try {
    await waitFor(`the service at ${origin}`, () => isReady(origin), { limitMs: startLimitMs });
  } catch (cause) {
    const how = await Promise.race([service.ended, 'still running']);
    await service.end('SIGKILL');
    const lines = service
      .logged()
      .slice(-5)
      .map(line => JSON.stringify(line).slice(0, 500));
    throw new Error(`The service is not ready (${how}):\n${lines.join('\n')}`, { cause });
  }
  return { ...service, origin, port };
}

export async function isReady(origin: string): Promise<boolean> {
  return await ask(`${origin}/health/ready`).then(
    ({ status }) => status === 200,
    () => false,
  );
}

/** Parses a line of the log. The last line of a killed process may be incomplete. */
function parseLine(line: string): Readonly<Record<string, unknown>>[] {
  try {
    return line === '' ? [] : [JSON.parse(line)];
  } catch {
    return [{ level: 0, msg: line }];
  }
}
