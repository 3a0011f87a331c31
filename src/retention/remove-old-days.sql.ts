import { type Kysely, type RawBuilder, sql, type Transaction } from 'kysely';
import { DatabaseError } from 'pg';
import type { Database } from '../db/database.ts';
import { dayLockName, partitionLockName, partitionName } from '../db/snapshot-partitions.sql.ts';
import type { Tables } from '../db/tables.ts';
import { isoDate } from '../shared/iso-date.ts';
import { firstDayNeeded, lastDayToReplace } from './needed-dates.ts';
import { deleteSnapshots, lockUnneededSnapshots } from './unneeded-snapshots.sql.ts';

/** Result of the removal of days before the last 31. */
export interface RemovedDays {
  partitions: number;
  snapshots: number;
  /** Days that keep their rows because a snapshot that may be read is not rendered. */
  readonly unrendered: string[];
  /** Days that keep their rows because some belong to no registered snapshot. */
  readonly unregistered: string[];
}

export interface RemovalOptions {
  readonly now: Date;
  /** Ends the work after the current day. */
  readonly signal: AbortSignal;
  /**
   * Longest wait in milliseconds for transactions that use rows of any day. Meanwhile only ingests
   * into the old day wait too. Must be less than the 27 s in which a worker shuts down.
   */
  readonly timeoutMs: number;
}

type Blocker = 'in use' | 'unrendered' | 'unregistered';

/**
 * Longest time for which rows are read after their snapshot was rendered. Transactions that began
 * before may still read them, and no download or run takes a day.
 */
const rowsAreReadFor = sql`interval '24 hours'`;

/**
 * Lock timeout of short waits. Longer than `deadlock_timeout`, after which autovacuum yields. Short
 * because a new day waits while the end of a detachment waits for older transactions.
 */
const shortTimeout = sql`set lock_timeout = '2s'`;

/**
 * Drops partitions of old days whose snapshots are rendered, and deletes snapshots of old days that
 * no export can show any more. Works day by day. Skips days that are in use until the next night.
 */
export async function removeOldDays(db: Database, options: RemovalOptions): Promise<RemovedDays> {
  const done: RemovedDays = { partitions: 0, snapshots: 0, unrendered: [], unregistered: [] };
  for (const day of await listOldDays(db, isoDate(options.now))) {
    if (options.signal.aborted) break;
    const removed = await db.connection().execute(session => removeDay(session, day, options));
    if (removed === 'in use') continue;
    if (typeof removed === 'string') done[removed].push(day);
    else {
      done.snapshots += removed.snapshots;
      done.partitions += removed.partitions;
    }
  }
  return done;
}

/**
 * Lists old days that have snapshots or a partition, oldest first. A partition with an interrupted
 * detachment comes first, because Postgres detaches no other one until it is detached.
 */
async function listOldDays(db: Database, today: string): Promise<string[]> {
  const { rows } = await sql<{ day: string }>`
    select day
    from (
      select to_date(substring(relname from '^snapshot_rows_([0-9]{8})$'), 'YYYYMMDD') as day,
        inhdetachpending is true as is_pending
      from pg_class left join pg_inherits on inhrelid = oid
      where relkind = 'r' and pg_table_is_visible(oid)
      union all
      select distinct snapshot_date, false from snapshots
    ) as old
    where day < ${firstDayNeeded(today)}::date
    group by day
    order by bool_or(is_pending) desc, day`.execute(db);
  return rows.map(({ day }) => day);
}

async function removeDay(session: Kysely<Tables>, day: string, options: RemovalOptions) {
  // The first lock blocks the creation of the partition, the second blocks ingests.
  const locks = [partitionLockName(day), dayLockName(day)];
  try {
    const areLocked = await ask(
      session,
      sql`select bool_and(pg_try_advisory_lock(hashtextextended(name, 0)))
        from unnest(${locks}::text[]) as name`,
    );
    return areLocked ? await removeLockedDay(session, day, options) : 'in use';
  } catch (error) {
    if (isInUse(error)) return 'in use';
    throw error;
  } finally {
    await sql`reset lock_timeout; select pg_advisory_unlock_all()`.execute(session);
  }
}

async function removeLockedDay(
  session: Kysely<Tables>,
  day: string,
  { now, timeoutMs }: RemovalOptions,
) {
  const partition = sql.table(partitionName(day));
  const attach = sql`select ensure_snapshot_partition(${day}::date)`;
  const isStored = await ask(session, sql`to_regclass(${partitionName(day)}) is not null`);
  const inspect = (trx: Transaction<Tables>) => inspectDay(trx, day, now, isStored);
  await shortTimeout.execute(session);
  if (isStored) {
    // An earlier detachment may have been interrupted.
    await attach.execute(session);
    // Detaching and attaching again delays other work, so inspect before.
    const found = await session.transaction().execute(inspect);
    if (typeof found === 'string') return found;
    if (await ask(session, areRowsInLongUse(timeoutMs))) return 'in use';
    await sql`set lock_timeout = ${sql.lit(timeoutMs)}`.execute(session);
    await sql`alter table snapshot_rows detach partition ${partition} concurrently`.execute(
      session,
    );
    await shortTimeout.execute(session);
  }
  // The parent no longer includes the table, and transactions that wrote into it have ended. This
  // inspection is therefore final.
  return await session.transaction().execute(async trx => {
    const unneeded = await inspect(trx);
    if (typeof unneeded === 'string') {
      await attach.execute(trx);
      return unneeded;
    }
    if (isStored) await sql`drop table ${partition}`.execute(trx);
    await deleteSnapshots(trx, day, unneeded);
    return { snapshots: unneeded.length, partitions: isStored ? 1 : 0 };
  });
}

/**
 * Returns the environments whose snapshot of the day may be deleted, or the reason why the day
 * keeps its rows. Locks the registry rows of these snapshots.
 */
async function inspectDay(
  trx: Transaction<Tables>,
  day: string,
  now: Date,
  isStored: boolean,
): Promise<readonly string[] | Blocker> {
  await sql`set local statement_timeout = 0`.execute(trx);
  // A snapshot that is registered after this check is found by the last one.
  if (isStored && (await ask(trx, hasUnregisteredRows(day)))) return 'unregistered';
  const lastDay = lastDayToReplace(isoDate(now), day);
  const unneeded = await lockUnneededSnapshots(trx, day, lastDay);
  if (!isStored) return unneeded;
  const { rows } = await sql<{ blocker: Blocker | null }>`
    select case when bool_or(rendered_at is null) then 'unrendered'
      when bool_or(rendered_at >= ${now}::timestamptz - ${rowsAreReadFor}) then 'in use' end as blocker
    from snapshots as kept left join rendered_snapshots using (environment_id, version)
    where kept.snapshot_date = ${day}::date
      and environment_id <> all(${unneeded}::text[])`.execute(trx);
  return rows[0]?.blocker ?? unneeded;
}

/** True if the partition has rows that belong to no registered snapshot of the day. */
const hasUnregisteredRows = (day: string) => sql`exists (
  select from ${sql.table(partitionName(day))} as stored
  where not exists (
    select from snapshots
    where environment_id = stored.environment_id and snapshot_date = ${day}::date))`;

/** True if a transaction that uses rows of any day is already older than `ms`. */
const areRowsInLongUse = (ms: number) => sql`exists (
  select from pg_locks join pg_stat_activity using (pid)
  where locktype = 'relation' and relation = 'snapshot_rows'::regclass
    and database = (select oid from pg_database where datname = current_database())
    and pid <> pg_backend_pid()
    and xact_start < clock_timestamp() - ${ms}::integer * interval '1 ms')`;

/**
 * Returns true for a lock or statement timeout, a deadlock, another pending detachment, or a
 * missing table.
 */
function isInUse(error: unknown): boolean {
  return (
    error instanceof DatabaseError &&
    ['55P03', '57014', '40P01', '55000', '42P01'].includes(error.code ?? '')
  );
}

async function ask(session: Kysely<Tables>, condition: RawBuilder<unknown>): Promise<boolean> {
  const { rows } = await sql<{ answer: boolean }>`select (${condition}) as answer`.execute(session);
  return rows[0]?.answer === true;
}
