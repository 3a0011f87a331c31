import { sql, type Transaction } from 'kysely';
import { DatabaseError } from 'pg';
import { type Actor, recordChange } from '../audit/audit-log-repository.ts';
import type { Database, DatabaseOrTransaction } from '../db/database.ts';
import { partitionName } from '../db/snapshot-partitions.sql.ts';
import type { Tables } from '../db/tables.ts';
import { recordUndatedChanges } from '../db/undated-changes.sql.ts';
import { AppError, notFound, snapshotInUse } from '../shared/errors.ts';
import type { Plan } from './plans.ts';

/** Data space of one customer. Instants are ISO 8601 UTC. */
export interface Environment {
  readonly id: string;
  readonly name: string;
  readonly plan: Plan;
  /** Differs between a deleted environment and a later one with the same id. */
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

export interface EnvironmentInput {
  readonly id: string;
  readonly name: string;
  readonly plan: Plan;
}

/**
 * Creates the environment or updates its name and plan, and locks its row. Writes an audit line if
 * anything changes.
 */
export async function putEnvironment(
  trx: Transaction<Tables>,
  actor: Actor,
  input: EnvironmentInput,
): Promise<{ environment: Environment; created: boolean }> {
  while (true) {
    const inserted = await insertEnvironment(trx, actor, input);
    if (inserted !== null) return { environment: inserted, created: true };
    const updated = await updateEnvironment(trx, actor, input);
    if (updated !== null) return { environment: updated, created: false };
    // The environment was deleted between the two statements. Try again.
  }
}

/** Returns null if the environment exists. */
async function insertEnvironment(
  trx: DatabaseOrTransaction,
  actor: Actor,
  input: EnvironmentInput,
): Promise<Environment | null> {
  const row = await trx
    .insertInto('environments')
    .values(input)
    .onConflict(conflict => conflict.column('id').doNothing())
    .returningAll()
    .executeTakeFirst();
  if (row === undefined) return null;
  const details = { plan: input.plan };
  await recordChange(trx, actor, {
    environmentId: input.id,
    action: 'environment.created',
    targetId: input.id,
    details,
  });
  return toEnvironment(row);
}

/** Returns null if the environment does not exist. */
async function updateEnvironment(
  trx: DatabaseOrTransaction,
  actor: Actor,
  input: EnvironmentInput,
): Promise<Environment | null> {
  const { id, ...values } = input;
  // The lock keeps other updates out, so that the audit line names the correct previous plan.
  const before = await trx
    .selectFrom('environments')
    .select(['name', 'plan'])
    .where('id', '=', id)
    .forNoKeyUpdate()
    .executeTakeFirst();
  if (before === undefined) return null;
  const row = await trx
    .updateTable('environments')
    .set({ ...values, updated_at: sql`now()` })
    .where('id', '=', id)
    .returningAll()
    .executeTakeFirstOrThrow();
  const changed = (['name', 'plan'] as const).filter(field => before[field] !== values[field]);
  if (changed.length > 0) {
    const details = { changed, plan: { before: before.plan, after: values.plan } };
    await recordChange(trx, actor, {
      environmentId: id,
      action: 'environment.updated',
      targetId: id,
      details,
    });
  }
  return toEnvironment(row);
}

export async function findEnvironment(
  db: DatabaseOrTransaction,
  id: string,
): Promise<Environment | null> {
  const row = await db
    .selectFrom('environments')
    .selectAll()
    .where('id', '=', id)
    .executeTakeFirst();
  return row === undefined ? null : toEnvironment(row);
}

/** Lists environments in order of id, starting after `after`. */
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
 * Deletes the environment and all that belongs to it, rows without a registered snapshot included.
 * Rows go first, each day in a transaction of its own: one transaction for all would lock more
 * partitions than Postgres has room for. If this ends early, the environment is still there and can
 * be deleted again.
 *
 * @throws AppError `not_found`; `conflict` during an ingest that replaces one of its snapshots
 */
export async function deleteEnvironment(db: Database, actor: Actor, id: string): Promise<void> {
  const environment = await findEnvironment(db, id);
  if (environment === null) throw notFound('environment');
  do {
    for (const date of await daysWithRows(db, id)) await deleteDay(db, actor, id, date);
  } while (!(await deleteEmptyEnvironment(db, actor, environment)));
}

/** Returns the days with a registered snapshot, and all days with a table of rows. */
async function daysWithRows(db: Database, id: string): Promise<string[]> {
  const { rows } = await sql<{ day: string }>`
    select to_date(right(relname, 8), 'YYYYMMDD') as day
    from pg_class
    where relname ~ '^snapshot_rows_[0-9]{8}$' and relkind = 'r'
      and relnamespace = (select relnamespace from pg_class where oid = 'snapshot_rows'::regclass)
    union
    select snapshot_date from snapshots where environment_id = ${id}
    order by day`.execute(db);
  return rows.map(({ day }) => day);
}

async function deleteDay(db: Database, actor: Actor, id: string, date: string): Promise<void> {
  // The day's own table, because `snapshot_rows` does not reach a table that is being detached.
  const table = partitionName(date);
  const work = db.transaction().execute(async trx => {
    await sql`set local statement_timeout = 0`.execute(trx);
    // An ingest that replaces the snapshot holds its rows until the body has been read.
    await sql`set local lock_timeout = '5s'`.execute(trx);
    const { rows } = await sql<{ exists: boolean }>`
      select to_regclass(${table}) is not null as exists`.execute(trx);
    if (rows[0]?.exists === true)
      await sql`delete from ${sql.table(table)} where environment_id = ${id}`.execute(trx);
    await trx
      .deleteFrom('rendered_snapshots')
      .where('environment_id', '=', id)
      .where('snapshot_date', '=', date)
      .execute();
    const deleted = await trx
      .deleteFrom('snapshots')
      .where('environment_id', '=', id)
      .where('snapshot_date', '=', date)
      .returning(['version', 'row_count as rows', 'completed_at as completedAt'])
      .executeTakeFirst();
    if (deleted === undefined) return;
    const { completedAt, ...details } = deleted;
    await recordUndatedChanges(trx, [id], completedAt);
    await recordChange(trx, actor, {
      environmentId: id,
      action: 'snapshot.deleted',
      targetId: date,
      details,
    });
  });
  await work.catch(async (error: unknown) => {
    if (!(error instanceof DatabaseError)) throw error;
    if (error.code === lockNotAvailable)
      throw snapshotInUse(`The snapshot of ${date} is being ingested. Try again later.`);
    // Retention dropped the table in between.
    if (error.code === undefinedTable) await deleteDay(db, actor, id, date);
    else throw error;
  });
}

/** https://www.postgresql.org/docs/current/errcodes-appendix.html */
const lockNotAvailable = '55P03';
const undefinedTable = '42P01';

/** @returns false if a snapshot was ingested in the meantime */
async function deleteEmptyEnvironment(
  db: Database,
  actor: Actor,
  { id, createdAt }: Environment,
): Promise<boolean> {
  return await db.transaction().execute(async trx => {
    await sql`set local statement_timeout = 0`.execute(trx);
    // Waits for ingests that commit, and makes later ones fail.
    const row = await trx
      .selectFrom('environments')
      .select('plan')
      .where('id', '=', id)
      .where('created_at', '=', new Date(createdAt))
      .forUpdate()
      .executeTakeFirst();
    if (row === undefined) throw notFound('environment');
    const snapshot = await trx
      .selectFrom('snapshots')
      .select('version')
      .where('environment_id', '=', id)
      .limit(1)
      .executeTakeFirst();
    if (snapshot !== undefined) return false;
    await trx.deleteFrom('environments').where('id', '=', id).execute();
    await recordChange(trx, actor, {
      environmentId: id,
      action: 'environment.deleted',
      targetId: id,
      details: { plan: row.plan },
    });
    return true;
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

/**
 * Locks the environment until the transaction ends. A limit on its contents then also holds under
 * concurrent creation. Inserts of rows that refer to the environment do not wait.
 * @throws AppError `not_found`
 */
export async function lockEnvironment(trx: Transaction<Tables>, id: string): Promise<void> {
  const row = await trx
    .selectFrom('environments')
    .select('id')
    .where('id', '=', id)
    .forNoKeyUpdate()
    .executeTakeFirst();
  if (row === undefined) throw notFound('environment');
}

/**
 * Checks a limit on the contents of an environment.
 * @throws AppError `conflict` if the environment already has `bound` or more of them
 */
export function requireRoom(count: number, bound: number, what: string, remedy: string): void {
  if (count < bound) return;
  throw new AppError(
    'conflict',
    `An environment may have at most ${bound} ${what}, and it has ${count}. ${remedy}`,
  );
}
