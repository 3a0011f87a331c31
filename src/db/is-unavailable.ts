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
 * SQLSTATEs that say "not now" rather than "never": connection exceptions (08…), too many connections, server
 * starting or shutting down, read-only after a fail-over, and time-outs of our own making, for locks too.
 * Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
const sqlStates = /^(08...|53300|57P01|57P02|57P03|57P04|57P05|25006|57014|40001|40P01|55P03)$/;

/** pg and pg-pool report these without a code. */
const messages = [
  'Connection terminated',
  'timeout exceeded when trying to connect',
  'Client has encountered a connection error',
  'Client was closed',
  'Cannot use a pool after calling end',
];

/** Whether the database could not be reached or could not serve now, so that trying again later makes sense. */
export function isDatabaseUnavailable(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if (error instanceof DatabaseError) return sqlStates.test(error.code ?? '');
  if (error instanceof AggregateError) return error.errors.some(isDatabaseUnavailable);
  if ('code' in error && typeof error.code === 'string' && networkCodes.has(error.code))
    return true;
  return messages.some(message => error.message.startsWith(message));
}
