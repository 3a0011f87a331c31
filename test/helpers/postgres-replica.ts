import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import pg from 'pg';
import { freePort } from '../../dev/free-port.ts';
import type { PostgresServer } from '../../dev/postgres-server.ts';
import { waitFor } from './wait-for.ts';

/** A streaming replica of a server of the tests. */
export interface PostgresReplica {
  /** URL of the database of `primaryUrl` on the replica. */
  url(primaryUrl: string): string;
  /** Stops the replay of changes. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Waits until the replica has all changes of the primary. */
  catchUp(): Promise<void>;
  start(): Promise<void>;
  /** Breaks all connections to the replica. */
  stop(): Promise<void>;
  remove(): Promise<void>;
}

/**
 * Files that the replica does not need. Some of them come and go while the server runs. The primary
 * sends the WAL, which is in files with names of 24 hexadecimal digits.
 */
const leftOut = /^(?:postmaster\.(?:pid|opts)|pg_internal\.init.*|pgsql_tmp.*|[\dA-F]{24})$/;

/**
 * Creates the replica with the low-level backup API of Postgres: copies the files between start and
 * stop, adds the label and follows the primary. The npm package has no pg_basebackup.
 * https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-LOWLEVEL-BASE-BACKUP
 */
export async function startReplica(primary: PostgresServer): Promise<PostgresReplica> {
  const client = new pg.Client({ connectionString: primary.url });
  await client.connect();
  const { rows: shown } = await client.query<{ data_directory: string }>('show data_directory');
  const source = shown[0]?.data_directory ?? '';
  const directory = path.join(path.dirname(source), 'replica');
  await client.query(`select pg_backup_start('replica', fast => true)`);
  fs.cpSync(source, directory, {
    recursive: true,
    filter: file => !leftOut.test(path.basename(file)),
  });
  const { rows: labels } = await client.query<{ labelfile: string }>(
    'select labelfile from pg_backup_stop(wait_for_archive => false)',
  );
  await client.end();
  fs.writeFileSync(path.join(directory, 'backup_label'), labels[0]?.labelfile ?? '');
  fs.writeFileSync(path.join(directory, 'standby.signal'), '');
  const { uid, gid } = fs.statSync(source);
  for (const name of ['.', ...fs.readdirSync(directory, { recursive: true, encoding: 'utf8' })]) {
    fs.lchownSync(path.join(directory, name), uid, gid);
  }
  fs.chmodSync(directory, 0o700);

  const port = await freePort();
  const url = (primaryUrl: string) =>
    Object.assign(new URL(primaryUrl), { port: String(port) }).href;
  const settings = {
    port: String(port),
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    max_connections: '200',
    primary_conninfo: `host=127.0.0.1 port=${primary.port} user=postgres`,
    hot_standby_feedback: 'on',
  };
  const args = [
    '-D',
    directory,
    ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
  ];
  let child: ChildProcess | null = null;

  const ask = async <R extends object>(server: string, question: string): Promise<R[]> => {
    const asking = new pg.Client({ connectionString: server });
    try {
      await asking.connect();
      return (await asking.query<R>(question)).rows;
    } finally {
      await asking.end().catch(() => {});
    }
  };
  const start = async () => {
    const log = fs.openSync(`${primary.logFile}-replica`, 'a');
    child = spawn(path.join(primary.binDirectory, 'postgres'), args, {
      ...(process.getuid?.() === 0 ? { uid, gid } : {}),
      cwd: path.dirname(directory),
      detached: true,
      stdio: ['ignore', log, log],
    });
    fs.closeSync(log);
    await waitFor(
      'the replica',
      () =>
        ask(url(primary.url), 'select 1').then(
          () => true,
          () => false,
        ),
      { limitMs: 60_000 },
    );
  };
  const stop = async () => {
    if (child === null || child.exitCode !== null) return;
    child.kill('SIGINT');
    await once(child, 'exit');
  };

  await start();
  return {
    url,
    start,
    stop,
    async pause() {
      await ask(url(primary.url), 'select pg_wal_replay_pause()');
      await waitFor('a paused replica', async () => {
        const [state] = await ask<{ state: string }>(
          url(primary.url),
          'select pg_get_wal_replay_pause_state() as state',
        );
        return state?.state === 'paused';
      });
    },
    async resume() {
      await ask(url(primary.url), 'select pg_wal_replay_resume()');
    },
    async catchUp() {
      // The primary sends only changes on its disk. A synchronous commit writes everything before
      // it.
      await ask(
        primary.url,
        `set synchronous_commit = on; select pg_logical_emit_message(true, '', '')`,
      );
      const [primaryAt] = await ask<{ lsn: string }>(
        primary.url,
        'select pg_current_wal_flush_lsn() as lsn',
      );
      await waitFor('a replica that has caught up', async () => {
        const [replica] = await ask<{ done: boolean }>(
          url(primary.url),
          `select pg_last_wal_replay_lsn() >= '${primaryAt?.lsn}' as done`,
        );
        return replica?.done === true;
      });
    },
    async remove() {
      await stop();
      fs.rmSync(directory, { recursive: true, force: true });
    },
  };
}
