import { sql } from 'kysely';
import type { ConfigKey } from '../export-configs/repository.ts';

/**
 * Returns the condition that a row belongs to a config; true without one.
 * @param table alias with the column `environment_id`
 * @param id column with the id of the config
 */
export function isOnly(table: string, only: ConfigKey | undefined, id = 'config_id') {
  if (only === undefined) return sql`true`;
  return sql`${sql.ref(`${table}.environment_id`)} = ${only.environmentId}
    and ${sql.ref(`${table}.${id}`)} = ${only.id}`;
}
