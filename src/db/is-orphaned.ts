import { DatabaseError } from 'pg';

/**
 * Returns true if a write failed because its parent row, an environment or a config, was deleted.
 */
export function isOrphaned(error: unknown): boolean {
  return error instanceof DatabaseError && error.code === '23503';
}
