import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import { withSpan } from '../observability/tracing.ts';
import { applySessionSettings } from './session-settings.sql.ts';
import type { Tables } from './tables.ts';

/** OID of `date`. Dates stay text (`YYYY-MM-DD`), because a Date depends on a time zone. */
const dateOid = 1082;
/** OID of `bigint`. All bigint columns hold counts far below 2^53. */
const bigintOid = 20;

const types: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') => {
    if (oid === dateOid) return (value: string) => value;
    if (oid === bigintOid) return Number;
    return format === undefined
      ? pg.types.getTypeParser(oid)
      : pg.types.getTypeParser(oid, format as 'text');
  }) as pg.CustomTypesConfig['getTypeParser'],
};

export interface PoolOptions {
  readonly url: string;
  /** Shown in `pg_stat_activity`. */
  readonly applicationName: string;
  readonly maxConnections: number;
  /** Longest time of one statement in milliseconds; 0 for no limit. */
  readonly statementTimeoutMs: number;
  /** Longest wait of a statement for a lock in milliseconds. Default: 0, no limit. */
  readonly lockTimeoutMs?: number;
  /** Receives errors of idle connections, after the pool has removed them. */
  readonly onIdleError: (error: Error) => void;
}

/** Creates a pool that connects at the first query. A caller waits at most 5 s for a connection. */
export function createPool(options: PoolOptions): pg.Pool {
  const settings = applySessionSettings({
    statementTimeoutMs: options.statementTimeoutMs,
    lockTimeoutMs: options.lockTimeoutMs ?? 0,
  });
  const pool = new pg.Pool({
    connectionString: options.url,
    application_name: options.applicationName,
    max: options.maxConnections,
    connectionTimeoutMillis: 5_000,
    idleTimeoutMillis: 30_000,
    keepAlive: true,
    types,
    // The pool waits for this before it hands the connection out.
    onConnect: async client => {
      // The running query reports a broken connection. Without a listener the event would end the
      // process.
      client.on('error', () => {});
      await client.query(settings);
    },
  });
  pool.on('error', options.onIdleError);
  return traceWaiting(pool, options.applicationName);
}

/** Traces callers that wait by promise. `pool.query` waits by callback and is not traced. */
function traceWaiting(pool: pg.Pool, name: string): pg.Pool {
  const connect = pool.connect.bind(pool);
  type Callback = Parameters<typeof connect>[0];
  const traced = (callback?: Callback) =>
    callback === undefined
      ? withSpan('wait for a connection', { 'whx.pool': name }, () => connect())
      : connect(callback);
  return Object.assign(pool, { connect: traced });
}

export function createKysely(pool: pg.Pool): Kysely<Tables> {
  return new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) });
}

/** Returns a Kysely instance that runs all statements on one client, inside its transaction. */
export function createKyselyOn(client: pg.PoolClient): Kysely<Tables> {
  const borrowed = { query: client.query.bind(client), release: () => {} };
  return createKysely({ connect: async () => borrowed, end: async () => {} } as unknown as pg.Pool);
}
