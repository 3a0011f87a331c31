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

/**
 * Returns the condition that a config has no unfinished run. Postgres executes the subquery with a
 * limit as one index look-up per config. A join would be planned with statistics that are outdated
 * at midnight.
 * @param table alias with the column `environment_id`
 * @param id column with the id of the config
 */
export function hasNoUnfinishedRun(table: string, id = 'config_id') {
  return sql`(
    select true from export_runs as run
    where run.environment_id = ${sql.ref(`${table}.environment_id`)}
      and run.config_id = ${sql.ref(`${table}.${id}`)}
      and run.state in ('queued', 'running')
    limit 1) is null`;
}
