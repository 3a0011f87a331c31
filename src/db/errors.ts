import { DatabaseError } from 'pg';

const networkCodes = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
]);

/**
 * SQLSTATEs after which a later try can succeed:
 * - connection exceptions (08…)
 * - insufficient resources, such as a full disk or too many connections (53…)
 * - start or shutdown of the server, or read-only after a fail-over
 * - timeouts of statements and locks, and I/O errors (58030)
 * Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
const sqlStates =
  /^(08...|53...|57P01|57P02|57P03|57P04|57P05|25006|57014|58030|40001|40P01|55P03)$/;

/** Errors of pg and pg-pool that have no code. */
const messages = [
  'Connection terminated',
  'timeout exceeded when trying to connect',
  'Client has encountered a connection error',
  'Client was closed',
  // Kysely, after an error broke the connection.
  'Postgres connection has been discarded',
  'Cannot use a pool after calling end',
];

/** Returns true if the database cannot be reached or cannot serve now. A retry may then succeed. */
export function isDatabaseUnavailable(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if (error instanceof DatabaseError) return sqlStates.test(error.code ?? '');
  if (error instanceof AggregateError) return error.errors.some(isDatabaseUnavailable);
  if ('code' in error && typeof error.code === 'string' && networkCodes.has(error.code))
    return true;
  return messages.some(message => error.message.startsWith(message));
}

/**
 * Returns true if a write failed because its parent row, an environment or a config, was deleted.
 */
export function isOrphaned(error: unknown): boolean {
  return error instanceof DatabaseError && error.code === '23503';
}
