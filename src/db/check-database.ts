import { DatabaseError, type Pool, type PoolClient } from 'pg';
import { createPool } from './connect.ts';

/** The service can never work with this database. The message is one line for operators. */
export class UnsuitableDatabaseError extends Error {
  override readonly name = 'UnsuitableDatabaseError';
}

/** https://www.postgresql.org/docs/current/errcodes-appendix.html */
const protocolViolation = '08P01';

/** Longest time for one statement of the check. */
const statementTimeoutMs = 10_000;

/**
 * Checks properties that no retry can change: the encoding, and that each connection has its own
 * session.
 *
 * @throws {UnsuitableDatabaseError} if the database can never be used
 * @throws the driver's error if the database cannot be reached
 */
export async function checkDatabase(url: string): Promise<void> {
  const pool = createPool({
    url,
    applicationName: 'warehouse-export check',
    maxConnections: 2,
    statementTimeoutMs,
    onIdleError: () => {},
  });
  try {
    await checkEncoding(pool);
    if (await sharesSessions(pool)) {
      throw new UnsuitableDatabaseError(
        'The database is reached through a pooler in transaction or statement mode (such as ' +
          'PgBouncer): use pool_mode=session, or connect to Postgres itself.',
      );
    }
  } finally {
    await pool.end();
  }
}

async function checkEncoding(pool: Pool): Promise<void> {
  const { rows } = await pool.query<{ name: string; encoding: string }>(
    `select current_database() as name, current_setting('server_encoding') as encoding`,
  );
  const { name, encoding } = rows[0] ?? {};
  if (encoding === 'UTF8') return;
  throw new UnsuitableDatabaseError(
    `The database "${name}" has the encoding ${encoding}, and UTF8 is required: ` +
      `create another with "create database … encoding 'UTF8' template template0".`,
  );
}

/**
 * Returns true if two open connections can get the same session of the server. Advisory locks and
 * session settings would then leak between callers.
 *
 * A pooler reports other process ids than the server, so a direct connection is recognized at once.
 * In transaction mode, the transaction of the second connection takes the session that the first
 * has just used. Otherwise the first gets another session while that transaction is open.
 */
async function sharesSessions(pool: Pool): Promise<boolean> {
  const first = await pool.connect();
  try {
    const own = await backendId(first);
    if (own === reportedId(first)) return false;
    return await withTransaction(pool, async second => {
      if ((await backendId(second)) === own) return true;
      return (await backendId(first)) !== own;
    }).catch((error: unknown) => {
      // Statement mode refuses transactions.
      if (error instanceof DatabaseError && error.code === protocolViolation) return true;
      throw error;
    });
  } finally {
    first.release();
  }
}

async function withTransaction(
  pool: Pool,
  work: (client: PoolClient) => Promise<boolean>,
): Promise<boolean> {
  const client = await pool.connect();
  try {
    await client.query('begin');
    const result = await work(client);
    await client.query('rollback');
    return result;
  } finally {
    client.release(true);
  }
}

async function backendId(client: PoolClient): Promise<number | undefined> {
  const { rows } = await client.query<{ id: number }>('select pg_backend_pid() as id');
  return rows[0]?.id;
}

/** Returns the process id that the server sent at login. The driver's types lack it. */
function reportedId(client: PoolClient): number | null {
  return (client as { readonly processID?: number | null }).processID ?? null;
}

/**
 * Returns one line for an operator about an error of connecting or migrating.
 * Returns null for errors such as a TypeError: they are bugs, and their stack is needed.
 */
export function describeDatabaseError(error: unknown): string | null {
  const cause = error instanceof AggregateError ? error.errors[0] : error;
  if (!(cause instanceof Error)) return null;
  const code = 'code' in cause && typeof cause.code === 'string' ? cause.code : null;
  // The driver reports some failures, such as refused TLS, as an Error without a code.
  const isKnown =
    code !== null || cause.constructor === Error || cause instanceof UnsuitableDatabaseError;
  if (!isKnown) return null;
  const message = cause.message.replaceAll(/\s+/g, ' ').trim();
  return code === null || message.includes(code) ? message : `${message} (${code})`;
}
