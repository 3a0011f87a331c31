import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { testAdminToken, testEncryptionKeys } from './secrets.ts';

export interface ServiceProcess {
  readonly pid: number;
  /** Sends the signal and waits for the end. @returns the exit code, or the signal that ended it */
  end(signal: 'SIGTERM' | 'SIGKILL'): Promise<number | NodeJS.Signals>;
}

const main = path.join(import.meta.dirname, '../../src/main.ts');

/** The service as `npm start` starts it, in a process of its own. */
export function startServiceProcess(
  databaseUrl: string,
  env: Readonly<Record<string, string>> = {},
): ServiceProcess {
  const directory = process.env['TEST_LOG_DIRECTORY'];
  // Where the whole suite's output is searched for secrets.
  const log = directory === undefined ? 'ignore' : fs.openSync(path.join(directory, 'processes'), 'a');
  const child: ChildProcess = spawn(process.execPath, [main], {
    env: {
      DATABASE_URL: databaseUrl,
      ADMIN_TOKEN: testAdminToken,
      ENCRYPTION_KEYS: testEncryptionKeys.first,
      S3_ENDPOINT_ALLOWLIST: '127.0.0.1',
      PORT: '0',
      ...env,
    },
    stdio: ['ignore', log, log],
  });
  if (typeof log === 'number') fs.closeSync(log);
  const exited = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>;
  return {
    pid: child.pid ?? 0,
    async end(signal) {
      child.kill(signal);
      const [code, endedBy] = await exited;
      return code ?? endedBy ?? 'SIGKILL';
    },
  };
}
