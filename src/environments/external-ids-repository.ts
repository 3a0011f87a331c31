import { sql } from 'kysely';
import type { DatabaseOrTransaction } from '../db/database.ts';
import { notFound } from '../shared/errors.ts';

/**
 * Reads the external ids of environments, random ids that never change. A customer names the id in
 * the trust policy of a role, so that the service assumes the role for that environment alone.
 */

/**
 * Returns the external id of each existing environment. Creates missing ids: environments of
 * earlier versions have none.
 */
export async function readExternalIds(
  db: DatabaseOrTransaction,
  environmentIds: readonly string[],
): Promise<Map<string, string>> {
  const found = await selectExternalIds(db, environmentIds);
  const missing = environmentIds.filter(id => !found.has(id));
  if (missing.length === 0) return found;
  await sql`
    insert into external_ids (environment_id)
    select id from environments where id = any(${missing}) for key share
    on conflict do nothing`.execute(db);
  return await selectExternalIds(db, environmentIds);
}

/**
 * Returns the external id of an environment.
 * @throws AppError `not_found`
 */
export async function readExternalId(
  db: DatabaseOrTransaction,
  environmentId: string,
): Promise<string> {
  const externalId = (await readExternalIds(db, [environmentId])).get(environmentId);
  if (externalId === undefined) throw notFound('environment');
  return externalId;
}

async function selectExternalIds(
  db: DatabaseOrTransaction,
  environmentIds: readonly string[],
): Promise<Map<string, string>> {
  if (environmentIds.length === 0) return new Map();
  const rows = await db
    .selectFrom('external_ids')
    .select(['environment_id', 'external_id'])
    .where('environment_id', 'in', environmentIds)
    .execute();
  return new Map(rows.map(row => [row.environment_id, row.external_id]));
}
