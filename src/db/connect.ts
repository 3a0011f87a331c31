import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import { inStep } from '../observability/tracing.ts';
import type { Tables } from './tables.ts';

/** A date column stays the text that Postgres sends (`YYYY-MM-DD`): a Date would drag a time zone in. */
const dateOid = 1082;
/** Counts are bigint in the tables and far below 2^53 in life. */
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
  /** The longest that one statement may take; 0 for no limit. */
  readonly statementTimeoutMs: number;
  /** The longest that a statement may wait for a lock; default: as long as it takes. */
  readonly lockTimeoutMs?: number;
  /** Hears of connections that broke while idle; the pool has dropped them already. */
  readonly onIdleError: (error: Error) => void;
}

/** Opens nothing yet: the first query does. A caller waits at most 5 s for a connection. */
export function createPool(options: PoolOptions): pg.Pool {
  const pool = new pg.Pool({
    connectionString: options.url,
    application_name: options.applicationName,
    max: options.maxConnections,
    connectionTimeoutMillis: 5_000,
    idleTimeoutMillis: 30_000,
    keepAlive: true,
    types,
    // Waited for before the connection is handed out; pg will soon refuse a query behind another's back.
    onConnect: async client => {
      // After a break the query that was under way reports it; without a listener the event would end the process.
      client.on('error', () => {});
      // A query ends soon after its connection was closed, also while it waits for a lock.
      await client.query(`set client_connection_check_interval = '500ms'`);
      if (options.statementTimeoutMs > 0) {
        await client.query(`set statement_timeout = ${options.statementTimeoutMs}`);
      }
      if (options.lockTimeoutMs !== undefined) {
        await client.query(`set lock_timeout = ${options.lockTimeoutMs}`);
      }
    },
  });
  pool.on('error', options.onIdleError);
  return traceWaiting(pool, options.applicationName);
}

/** Of what waits by promise; `pool.query` asks by callback, and its wait is over in no time. */
function traceWaiting(pool: pg.Pool, name: string): pg.Pool {
  const connect = pool.connect.bind(pool);
  type Callback = Parameters<typeof connect>[0];
  const traced = (callback?: Callback) =>
    callback === undefined
      ? inStep('wait for a connection', { 'whx.pool': name }, () => connect())
      : connect(callback);
  return Object.assign(pool, { connect: traced });
}

export function createKysely(pool: pg.Pool): Kysely<Tables> {
  return new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) });
}
