import { DatabaseError } from 'pg';

/** Whether a row could not be written because what it belongs to, an environment or a config, was deleted meanwhile. */
export function isOrphaned(error: unknown): boolean {
  return error instanceof DatabaseError && error.code === '23503';
}
