import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { migrateToLatest } from '../../src/db/migrator.ts';
import { waitFor } from './wait-for.ts';

export interface TestDatabase {
  readonly name: string;
  readonly url: string;
  /** Pool for queries of the test: superuser, few connections. */
  readonly pool: pg.Pool;
}

interface TestWithTeardown {
  teardown(handler: () => Promise<void>): void;
}

/**
 * Creates a migrated database for the test and drops it at the end. The test fails if a connection
 * is still open then. Teardowns run in reverse order, so call this before anything that connects.
 */
export async function createTestDatabase(t: TestWithTeardown): Promise<TestDatabase> {
  const adminUrl = required('TEST_POSTGRES_URL');
  const template = required('TEST_TEMPLATE_DATABASE');
  const name = `whx_test_${randomBytes(6).toString('hex')}`;
  await withClient(adminUrl, client =>
    client.query(`create database ${name} template ${template} strategy file_copy`),
  );
  const url = urlOfDatabase(adminUrl, name);
  const pool = new pg.Pool({ connectionString: url, max: 4, application_name: 'test' });
  // A test may stop the server on purpose. The next query reports the error.
  pool.on('error', () => {});
  t.teardown(async () => {
    const checkedOut = pool.totalCount - pool.idleCount;
    if (checkedOut === 0) await pool.end();
    await withClient(adminUrl, async client => {
      // Disconnecting clients need time to close. Pools close idle connections after 10 s or more.
      const left = await waitFor('the end of all connections', () => backendsOf(client, name), {
        isWanted: lines => lines.length === 0,
        limitMs: 8_000,
      }).catch(() => backendsOf(client, name));
      const message = `connections to the test's database were left open:\n${left.join('\n')}`;
      // Printed before the drop, which breaks those connections and may end this process.
      if (left.length > 0) console.error(`LEAK: ${message}`);
      await client.query(`drop database ${name} with (force)`);
      if (left.length > 0) throw new Error(message);
    });
  });
  return { name, url, pool };
}

/**
 * Deletes all rows and jobs, so that the tests of a file can share one service. `truncate` would
 * take 72 ms of CPU time instead of 2 ms, because it creates new files for all tables and indexes.
 * Tries again after a deadlock with the tick of a running worker: both lock rows of many tables, in
 * different orders.
 */
export async function emptyTables(pool: pg.Pool): Promise<void> {
  const empty = () =>
    pool.query(
      `delete from environments; delete from audit_log; delete from snapshot_rows;
       delete from snapshot_changes; delete from pgboss.job`,
    );
  await empty().catch(async (error: { code?: string }) => {
    if (error.code !== deadlockDetected) throw error;
    await empty();
  });
}

/** https://www.postgresql.org/docs/current/errcodes-appendix.html */
const deadlockDetected = '40P01';

/**
 * Creates the database that `createTestDatabase` copies. Postgres copies only a database without
 * connections.
 */
export async function createTemplateDatabase(adminUrl: string): Promise<string> {
  const name = `whx_template_${randomBytes(6).toString('hex')}`;
  await withClient(adminUrl, client => client.query(`create database ${name}`));
  await migrateToLatest(urlOfDatabase(adminUrl, name));
  await withClient(adminUrl, client =>
    client.query(`alter database ${name} allow_connections false`),
  );
  return name;
}

export async function dropTemplateDatabase(adminUrl: string, name: string): Promise<void> {
  await withClient(adminUrl, client =>
    client.query(`drop database if exists ${name} with (force)`),
  );
}

/** Returns a line for each client connection to the database. */
async function backendsOf(client: pg.Client, database: string): Promise<string[]> {
  const { rows } = await client.query<{ line: string }>(
    `select concat_ws(' | ', pid, nullif(application_name, ''), state, left(query, 200)) as line
     from pg_stat_activity where datname = $1 and backend_type = 'client backend' and pid <> pg_backend_pid()`,
    [database],
  );
  return rows.map(row => row.line);
}

async function withClient<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url, application_name: 'test admin' });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

function urlOfDatabase(adminUrl: string, name: string): string {
  const url = new URL(adminUrl);
  url.pathname = `/${name}`;
  return url.href;
}

function required(name: string): string {
  const value = process.env[name];
  if (!value)
    throw new Error(`${name} is not set: run tests with "npm test", which starts the database`);
  return value;
}
