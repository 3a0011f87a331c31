import { sql, type Transaction } from 'kysely';
import { DatabaseError } from 'pg';
import { recordChanges, systemActor } from '../audit/audit-log.ts';
import type { Database } from '../db/database.ts';
import type { Tables } from '../db/tables.ts';
import { dayLockName, partitionName, snapshotLockName } from '../snapshots/partitions.sql.ts';
import { firstDayNeeded, isNeeded } from './needed-dates.ts';

/**
 * Removes the snapshots that nothing can show any more: registry row, rows and a line of the audit log in one
 * transaction. Nobody waits for it: it asks for each lock and does without what is taken; the next night comes.
 */

const actor = systemActor('retention');
/** Of a day's partition; what queues behind it is about that old day alone. */
const lockTimeout = sql`set local lock_timeout = '100ms'`;

export interface RemovedOfDay {
  readonly removed: number;
  /** All at once, without looking at a single row. */
  readonly emptied: boolean;
}

/** The days that may hold snapshots that nobody needs, oldest first. */
export async function listOldDays(db: Database, today: string): Promise<string[]> {
  const rows = await db
    .selectFrom('snapshots')
    .select('snapshot_date')
    .distinct()
    .where('snapshot_date', '<', firstDayNeeded(today))
    .orderBy('snapshot_date')
    .execute();
  return rows.map(row => row.snapshot_date);
}

export async function removeUnneededOfDay(
  db: Database,
  day: string,
  today: string,
  signal: AbortSignal,
): Promise<RemovedOfDay> {
  const unneeded = (await listOfDay(db, day)).filter(({ next }) => !isNeeded(today, day, next));
  if (unneeded.length === 0) return { removed: 0, emptied: false };
  const emptied = await emptyDay(db, day, today);
  if (emptied > 0) return { removed: emptied, emptied: true };
  let removed = 0;
  for (const { environmentId } of unneeded) {
    if (signal.aborted) break;
    if (await removeOne(db, environmentId, day, today)) removed += 1;
  }
  return { removed, emptied: false };
}

/** @returns how many snapshots; 0 when one of them is needed, in use, rows stand there that no snapshot owns, or somebody may still see them */
async function emptyDay(db: Database, day: string, today: string): Promise<number> {
  const work = db.transaction().execute(async trx => {
    await sql`set local statement_timeout = 0`.execute(trx);
    await lockTimeout.execute(trx);
    // Every load of this day holds it shared.
    if (!(await tryLock(trx, dayLockName(day)))) return 0;
    const partition = sql.table(partitionName(day));
    await sql`lock table ${partition} in access exclusive mode`.execute(trx);
    const snapshots = await listOfDay(trx, day);
    if (snapshots.some(({ next }) => isNeeded(today, day, next))) return 0;
    const environmentIds = snapshots.map(({ environmentId }) => environmentId);
    const free = await lockRegistered(trx, environmentIds, day);
    if (free.length < environmentIds.length) return 0;
    if (await hasOthers(trx, day, environmentIds)) return 0;
    if (await isViewHeld(trx)) return 0;
    await sql`truncate ${partition}`.execute(trx);
    await unregister(trx, environmentIds, day);
    return environmentIds.length;
  });
  return await work.catch(orIfTaken(0));
}

async function removeOne(
  db: Database,
  environmentId: string,
  day: string,
  today: string,
): Promise<boolean> {
  const work = db.transaction().execute(async trx => {
    await sql`set local statement_timeout = 0`.execute(trx);
    await lockTimeout.execute(trx);
    if (!(await tryLock(trx, snapshotLockName(environmentId, day)))) return false;
    if ((await lockRegistered(trx, [environmentId], day)).length === 0) return false;
    // What is newer may have gone since it was looked at.
    const [snapshot] = await listOfDay(trx, day, environmentId);
    if (snapshot === undefined || isNeeded(today, day, snapshot.next)) return false;
    await trx
      .deleteFrom('snapshot_rows')
      .where('environment_id', '=', environmentId)
      .where('snapshot_date', '=', day)
      .execute();
    await unregister(trx, [environmentId], day);
    return true;
  });
  return await work.catch(orIfTaken(false));
}

/** Each snapshot of the day with the date of its environment's next newer one. */
async function listOfDay(
  db: Database | Transaction<Tables>,
  day: string,
  environmentId: string | null = null,
): Promise<{ environmentId: string; next: string | null }[]> {
  return await db
    .selectFrom('snapshots as snapshot')
    .select(({ selectFrom }) => [
      'snapshot.environment_id as environmentId',
      selectFrom('snapshots as newer')
        .select('newer.snapshot_date')
        .whereRef('newer.environment_id', '=', 'snapshot.environment_id')
        .whereRef('newer.snapshot_date', '>', 'snapshot.snapshot_date')
        .orderBy('newer.snapshot_date')
        .limit(1)
        .as('next'),
    ])
    .where('snapshot.snapshot_date', '=', day)
    .where(({ eb, val }) =>
      environmentId === null ? val(true) : eb('snapshot.environment_id', '=', environmentId),
    )
    .orderBy('snapshot.environment_id')
    .execute();
}

/**
 * Locks the registry rows, so that no run can be asked for any more, and leaves out those that somebody else has locked
 * or that a run has still to read.
 */
async function lockRegistered(
  trx: Transaction<Tables>,
  environmentIds: readonly string[],
  day: string,
): Promise<string[]> {
  const locked = await trx
    .selectFrom('snapshots')
    .select('environment_id')
    .where('snapshot_date', '=', day)
    .where('environment_id', '=', anyOf(environmentIds))
    .forUpdate()
    .skipLocked()
    .execute();
  const awaited = await trx
    .selectFrom('export_runs')
    .select('environment_id')
    .where('snapshot_date', '=', day)
    .where('state', 'in', ['queued', 'running'])
    .execute();
  const busy = new Set(awaited.map(row => row.environment_id));
  return locked.map(row => row.environment_id).filter(id => !busy.has(id));
}

/** Whether rows stand there of an environment that has no snapshot of the day: one look at the index for each that has. */
async function hasOthers(
  trx: Transaction<Tables>,
  day: string,
  environmentIds: readonly string[],
): Promise<boolean> {
  const { rows } = await sql<{ others: boolean }>`
    with recursive found as (
      (select environment_id from ${sql.table(partitionName(day))} order by environment_id limit 1)
      union all
      select (
        select more.environment_id from ${sql.table(partitionName(day))} as more
        where more.environment_id > found.environment_id order by more.environment_id limit 1)
      from found where found.environment_id is not null
    )
    select exists (
      select from found where environment_id is not null and environment_id <> all(${environmentIds})
    ) as others`.execute(trx);
  return rows[0]?.others === true;
}

const looks = 10;

/**
 * Whether a transaction may have read the registry as it was: it would find the rows gone after TRUNCATE, though not
 * after DELETE. A replica with `hot_standby_feedback` always may. Short statements come and go, so it looks more than once.
 */
async function isViewHeld(trx: Transaction<Tables>): Promise<boolean> {
  for (let look = 1; look <= looks; look += 1) {
    // What pg_stat_activity tells is kept for the transaction otherwise.
    await sql`select pg_stat_clear_snapshot(), pg_sleep(0.01)`.execute(trx);
    const { rows } = await sql<{ held: boolean }>`
      select exists (
        select from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and backend_xmin is not null
          and usesysid is not null -- autovacuum has none
      ) or exists (select from pg_stat_replication where backend_xmin is not null)
        or exists (select from pg_replication_slots where xmin is not null) as held`.execute(trx);
    if (rows[0]?.held === false) return false;
  }
  return true;
}

async function unregister(
  trx: Transaction<Tables>,
  environmentIds: readonly string[],
  day: string,
): Promise<void> {
  await trx
    .deleteFrom('snapshots')
    .where('snapshot_date', '=', day)
    .where('environment_id', '=', anyOf(environmentIds))
    .execute();
  await recordChanges(
    trx,
    actor,
    environmentIds.map(environmentId => ({
      environmentId,
      action: 'snapshot.deleted',
      targetId: day,
    })),
  );
}

/** As one parameter, however many there are. */
function anyOf(values: readonly string[]) {
  return sql<string>`any(${values})`;
}

async function tryLock(trx: Transaction<Tables>, name: string): Promise<boolean> {
  const { rows } = await sql<{ locked: boolean }>`
    select pg_try_advisory_xact_lock(hashtextextended(${name}, 0)) as locked`.execute(trx);
  return rows[0]?.locked === true;
}

/** Lock not available, and a partition that is not there. */
function orIfTaken<T>(otherwise: T): (error: unknown) => T {
  return error => {
    if (error instanceof DatabaseError && ['55P03', '42P01'].includes(error.code ?? ''))
      return otherwise;
    throw error;
  };
}
