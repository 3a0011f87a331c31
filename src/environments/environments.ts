import { sql } from 'kysely';
import type { Database, DatabaseOrTransaction } from '../db/database.ts';
import { notFound } from '../errors.ts';
import type { Plan } from './plans.ts';

/** One customer's data space. Instants are ISO-8601 UTC. */
export interface Environment {
  readonly id: string;
  readonly name: string;
  readonly plan: Plan;
  readonly createdAt: string;
  readonly updatedAt: string;
}

export const environmentIdPattern = '^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$';

export function isEnvironmentId(text: string): boolean {
  return new RegExp(environmentIdPattern).test(text);
}

interface EnvironmentRow {
  readonly id: string;
  readonly name: string;
  readonly plan: string;
  readonly created_at: Date;
  readonly updated_at: Date;
}

/** Creates the environment or updates its name and plan. */
export async function putEnvironment(
  db: DatabaseOrTransaction,
  input: { id: string; name: string; plan: Plan },
): Promise<{ environment: Environment; created: boolean }> {
  const row = await db
    .insertInto('environments')
    .values(input)
    .onConflict(conflict =>
      conflict.column('id').doUpdateSet({ name: input.name, plan: input.plan, updated_at: sql`now()` }),
    )
    .returningAll()
    // A row that this statement inserted has never been deleted or locked.
    .returning(sql<boolean>`xmax = 0`.as('created'))
    .executeTakeFirstOrThrow();
  return { environment: toEnvironment(row), created: row.created };
}

export async function findEnvironment(db: DatabaseOrTransaction, id: string): Promise<Environment | null> {
  const row = await db.selectFrom('environments').selectAll().where('id', '=', id).executeTakeFirst();
  return row === undefined ? null : toEnvironment(row);
}

/** In order of id, those after `after`. */
export async function listEnvironments(
  db: DatabaseOrTransaction,
  page: { after: string | null; limit: number },
): Promise<Environment[]> {
  const rows = await db
    .selectFrom('environments')
    .selectAll()
    .where('id', '>', page.after ?? '')
    .orderBy('id')
    .limit(page.limit)
    .execute();
  return rows.map(toEnvironment);
}

/**
 * Removes the environment and all that belongs to it, at once: a reader sees all of it or nothing.
 * @throws AppError `not_found`
 */
export async function deleteEnvironment(db: Database, id: string): Promise<void> {
  await db.transaction().execute(async trx => {
    // The row lock waits for loads that are about to swap their snapshot in, and turns later ones away.
    const row = await trx
      .selectFrom('environments')
      .select('id')
      .where('id', '=', id)
      .forUpdate()
      .executeTakeFirst();
    if (row === undefined) throw notFound('environment');
    await trx.deleteFrom('snapshot_rows').where('environment_id', '=', id).execute();
    await trx.deleteFrom('environments').where('id', '=', id).execute();
  });
}

export function toEnvironment(row: EnvironmentRow): Environment {
  return {
    id: row.id,
    name: row.name,
    // The column's check constraint allows nothing else.
    plan: row.plan as Plan,
    createdAt: row.created_at.toISOString(),
    updatedAt: row.updated_at.toISOString(),
  };
}
