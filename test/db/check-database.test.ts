import { execFile } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import t, { type Test } from 'tap';
import { freePort } from '../../dev/free-port.ts';
import {
  checkDatabase,
  describeDatabaseError,
  UnsuitableDatabaseError,
} from '../../src/db/check-database.ts';
import { migrateToLatest } from '../../src/db/migrator.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { needsProgram, startProgram } from '../helpers/programs.ts';
import { testAdminToken, testEncryptionKeys } from '../helpers/secrets.ts';
import { startServiceProcess } from '../helpers/service-process.ts';
import { compileCache } from '../helpers/start-flags.ts';
import { startTcpProxy } from '../helpers/tcp-proxy.ts';
import { waitFor } from '../helpers/wait-for.ts';

t.setTimeout(600_000);

const root = path.join(import.meta.dirname, '../..');
const { url, pool, name } = await createTestDatabase(t);

interface Result {
  readonly code: unknown;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program of the service to its end. */
function run(program: string, databaseUrl: string): Promise<Result> {
  const env = {
    DATABASE_URL: databaseUrl,
    ADMIN_TOKEN: testAdminToken,
    ENCRYPTION_KEYS: testEncryptionKeys.first,
    PORT: '0',
    PATH: process.env['PATH'],
    ...compileCache(),
  };
  return new Promise(resolve =>
    execFile(
      process.execPath,
      [path.join(root, program)],
      { env, timeout: 60_000 },
      (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : (error.code ?? error.signal), stdout, stderr }),
    ),
  );
}

/** Asserts that a program ended with one line on stderr. */
function assertOneLine(t: Test, result: Result, pattern: RegExp): void {
  t.equal(result.code, 1, result.stdout);
  t.equal(result.stderr.trimEnd().split('\n').length, 1, result.stderr);
  t.match(result.stderr, pattern);
  t.notMatch(result.stderr, /secret-word/);
}

/** Creates a database without tables. @returns its URL */
async function createDatabase(t: Test, encoding: string): Promise<string> {
  const empty = `${name}_${encoding.toLowerCase()}`;
  await pool.query(
    `create database ${empty} encoding '${encoding}' locale_provider libc locale 'C' template template0`,
  );
  t.teardown(() => pool.query(`drop database ${empty} with (force)`).then(() => {}));
  return url.replace(name, empty);
}

t.test('refuses a database whose encoding is not UTF8', async t => {
  for (const encoding of ['LATIN1', 'SQL_ASCII']) {
    const url = await createDatabase(t, encoding);
    const message = new RegExp(`^The database .*encoding ${encoding}.*UTF8.*$`);
    const error = await migrateToLatest(url).catch((thrown: unknown) => thrown);
    t.type(error, UnsuitableDatabaseError);
    t.match(describeDatabaseError(error), message);
  }
});

t.test('migrate prints one line for a URL that does not work', async t => {
  // No program listens on this port, and none gets it by chance.
  const port = 1;
  const closedRole = `${name}_role`;
  await pool.query(`create role ${closedRole} nologin`);
  t.teardown(() => pool.query(`drop role ${closedRole}`).then(() => {}));
  const cases: readonly (readonly [url: string, line: RegExp])[] = [
    [`postgres://u:secret-word@127.0.0.1:${port}/db`, /ECONNREFUSED/],
    [`postgres://u:secret-word@localhost:${port}/db`, /ECONNREFUSED/],
    ['postgres://u:secret-word@host.invalid/db', /host\.invalid/],
    [url.replace(name, 'no_such_database'), /no_such_database.*3D000/],
    [url.replace('postgres@', 'no_such_role@'), /no_such_role.*28000/],
    [url.replace('postgres@', `${closedRole}@`), /not permitted to log in.*28000/],
    [`${url}?sslmode=verify-full`, /SSL/],
    [`${url}?sslmode=verify-full&sslrootcert=/no/such/file`, /no\/such\/file/],
  ];
  for (const [address, pattern] of cases) {
    const error = await migrateToLatest(address).catch((thrown: unknown) => thrown);
    const line = describeDatabaseError(error) ?? 'no line';
    t.match(line, pattern);
    t.notMatch(line, /\n|secret-word/);
  }
  assertOneLine(t, await run('src/cli/migrate.ts', url.replace(name, 'none')), /"none".*3D000/);
  const malformed = await run('src/cli/migrate.ts', 'postgres://u:secret-word@h:99999/db');
  assertOneLine(t, malformed, /DATABASE_URL/);
});

t.test('start refuses a certificate file that cannot be read', async t => {
  const result = await run('src/main.ts', `${url}?sslmode=verify-full&sslrootcert=/no/such/file`);
  assertOneLine(t, result, /no\/such\/file/);
});

t.test('start names npm run migrate, and ends once a database proves not to be UTF8', async t => {
  const withoutTables = await createDatabase(t, 'UTF8');
  const snapshots = new URL(await createDatabase(t, 'LATIN1'));
  const proxy = await startTcpProxy(Number(snapshots.port));
  t.teardown(() => proxy.close());
  proxy.cut();
  snapshots.port = String(proxy.port);
  const service = startServiceProcess(withoutTables, {
    PROCESS_ROLE: 'api',
    SNAPSHOT_DATABASE_URL: snapshots.href,
  });
  t.teardown(() => service.end('SIGKILL'));
  const logLine = (message: RegExp) =>
    waitFor(
      `the log line ${message}`,
      () => service.logged().find(line => message.test(String(line['msg']))),
      { limitMs: 90_000 },
    );
  await logLine(/^database unreachable at start$/);
  t.match(await logLine(/npm run migrate/), { level: 50 });
  proxy.open();
  t.equal(await service.ended, 1);
  t.match(service.logged().at(-1), { msg: /encoding LATIN1.*UTF8/ });
});

t.test('checks the pool mode of PgBouncer', needsProgram('pgbouncer'), async t => {
  const server = await startPgBouncer(t);
  for (const mode of ['transaction', 'statement']) {
    for (const size of [1, 20]) {
      t.test(`refuses PgBouncer: ${mode} mode, pool of ${size}`, async t => {
        const refusal = { name: 'UnsuitableDatabaseError', message: /pool_mode=session/ };
        const pooled = `${server}/${mode}_${size}`;
        await t.rejects(checkDatabase(pooled), refusal);
        await t.rejects(migrateToLatest(pooled), refusal);
      });
    }
  }

  t.test('migrate succeeds four times through PgBouncer in session mode', async t => {
    for (let time = 0; time < 4; time += 1) {
      t.strictSame(await migrateToLatest(`${server}/session_20`), []);
    }
  });
});

/**
 * Starts PgBouncer with a pool of 1 and of 20 in each mode, such as `statement_20`.
 *
 * @returns its URL without the name of a pool
 */
async function startPgBouncer(t: Test): Promise<string> {
  const server = `host=127.0.0.1 port=${new URL(url).port} dbname=${name}`;
  const pools = ['session', 'transaction', 'statement'].flatMap(mode =>
    [1, 20].map(size => `${mode}_${size} = ${server} pool_mode=${mode} pool_size=${size}`),
  );
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'warehouse-export-pgbouncer-'));
  t.teardown(async () => fs.rmSync(directory, { recursive: true, force: true }));
  const port = await freePort();
  const configFile = path.join(directory, 'pgbouncer.ini');
  const usersFile = path.join(directory, 'users.txt');
  const lines = [
    '[databases]',
    ...pools,
    '[pgbouncer]',
    'listen_addr = 127.0.0.1',
    `listen_port = ${port}`,
    'unix_socket_dir =',
    'auth_type = trust',
    `auth_file = ${usersFile}`,
  ];
  fs.writeFileSync(configFile, lines.join('\n'));
  fs.writeFileSync(usersFile, '"postgres" ""\n');
  for (const name of [directory, configFile, usersFile]) {
    fs.chmodSync(name, name === directory ? 0o755 : 0o644);
  }
  // PgBouncer refuses to run as root.
  const user = process.getuid?.() === 0 ? ['-u', 'nobody'] : [];
  const { child } = startProgram(t, 'pgbouncer', [...user, configFile]);
  // SIGTERM may wait for the end of connections.
  t.teardown(() => child.kill('SIGQUIT'));
  await waitFor('PgBouncer', () => isOpen(port));
  return `postgres://postgres@127.0.0.1:${port}`;
}

function isOpen(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = net.connect(port, '127.0.0.1');
    socket.once('error', () => resolve(false));
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
  });
}
