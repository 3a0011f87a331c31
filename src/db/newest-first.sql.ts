import { sql } from 'kysely';

/** Position of an item in a list that is ordered by creation, newest first. */
export interface ListPosition {
  readonly createdAt: Date;
  readonly id: string;
}

/**
 * Returns the condition that a row comes after the position; true without one.
 * @param table table or alias with the columns `created_at` and `id`
 */
export function isAfter(table: string, position: ListPosition | null) {
  if (position === null) return sql<boolean>`true`;
  const columns = [`${table}.created_at`, `${table}.id`].map(column => sql.ref(column));
  return sql<boolean>`(${sql.join(columns)}) < (${position.createdAt}, ${position.id})`;
}
