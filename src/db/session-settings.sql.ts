/** Settings of every database connection. */

interface SessionLimits {
  /** Longest time of one statement in milliseconds; 0 for no limit. */
  readonly statementTimeoutMs: number;
  /** Longest wait of a statement for a lock in milliseconds; 0 for no limit. */
  readonly lockTimeoutMs: number;
}

/**
 * Settings on which results depend. A database or a role may have other defaults.
 * `default_transaction_read_only` is absent: operators and providers turn it on to stop writers.
 * `search_path` is the default of Postgres, so that a schema named like the role still works.
 */
const fixedSettings: Readonly<Record<string, string>> = {
  array_nulls: 'on',
  backslash_quote: 'safe_encoding',
  bytea_output: 'hex',
  // Ends a query soon after its connection was closed, also while it waits for a lock.
  client_connection_check_interval: '500ms',
  client_encoding: 'UTF8',
  datestyle: 'ISO, MDY',
  default_transaction_deferrable: 'off',
  default_transaction_isolation: 'read committed',
  exit_on_error: 'off',
  extra_float_digits: '1',
  idle_in_transaction_session_timeout: '0',
  idle_session_timeout: '0',
  intervalstyle: 'postgres',
  quote_all_identifiers: 'off',
  row_security: 'on',
  search_path: '"$user", public',
  standard_conforming_strings: 'on',
  timezone: 'UTC',
  transform_null_equals: 'off',
};

/**
 * Returns statements for one simple query, so that a new connection costs one round trip.
 * Startup parameters would cost none, but PgBouncer refuses those that it does not know.
 * `statement_timeout` comes first, because a short default would cancel what follows.
 */
export function applySessionSettings(limits: SessionLimits): string {
  const settings = { ...fixedSettings, lock_timeout: String(limits.lockTimeoutMs) };
  const calls = Object.entries(settings).map(([name, value]) => setConfig(name, value));
  return `
    set statement_timeout = ${limits.statementTimeoutMs};
    select ${calls.join(', ')},
      case when pg_catalog.current_setting('server_version_num')::integer >= 170000
        then ${setConfig('transaction_timeout', '0')} end`;
}

function setConfig(name: string, value: string): string {
  return `pg_catalog.set_config('${name}', '${value}', false)`;
}
