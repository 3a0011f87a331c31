import { type Kysely, sql } from 'kysely';
import { DatabaseError } from 'pg';
import type { Database } from '../db/database.ts';
import type { Tables } from '../db/tables.ts';
import { dayLockName, partitionName } from '../snapshots/partitions.sql.ts';
import { firstDayNeeded } from './needed-dates.ts';

/**
 * Drops the partitions of old days that hold nothing. They cost almost nothing, so it is done only where nobody is held
 * up: DETACH … CONCURRENTLY lets exports, loads and new days through while it waits for exports that are older than it
 * (docs/retention.md), and where there are any it is not even begun.
 */

export interface DroppedPartitions {
  readonly dropped: number;
  /** Hold rows that no snapshot owns: only a person can say whether they may go. */
  readonly unregistered: readonly string[];
}

/** An export that began after the look at `isInUse`. */
const detachPatience = sql`set lock_timeout = '1s'`;
/** Unlike the beginning of a detachment, its end keeps new days out while it waits. And for what locks one old day. */
const shortPatience = sql`set lock_timeout = '100ms'`;

export async function dropEmptyPartitions(
  db: Database,
  today: string,
  signal: AbortSignal,
): Promise<DroppedPartitions> {
  let dropped = 0;
  const unregistered: string[] = [];
  for (const day of await listRemovableDays(db, today)) {
    if (signal.aborted) break;
    const outcome = await db.connection().execute(connection => dropPartition(connection, day));
    if (outcome === 'dropped') dropped += 1;
    if (outcome === 'has rows' && !(await isRegistered(db, day))) unregistered.push(day);
  }
  return { dropped, unregistered };
}

/**
 * Old days that have a partition and no snapshot, oldest first. Also those whose removal broke off half way: one that is
 * still being detached keeps all others from it, so it comes before them.
 */
async function listRemovableDays(db: Database, today: string): Promise<string[]> {
  const { rows } = await sql<{ day: string }>`
    select day
    from pg_class
    left join pg_inherits on inhrelid = pg_class.oid
    cross join lateral (select to_date(right(relname, 8), 'YYYYMMDD') as day) as named
    where relname ~ '^snapshot_rows_[0-9]{8}$' and relkind = 'r'
      and relnamespace = (select relnamespace from pg_class where oid = 'snapshot_rows'::regclass)
      and (inhparent is null
        or (inhparent = 'snapshot_rows'::regclass
          and pg_get_expr(relpartbound, pg_class.oid) = format('FOR VALUES FROM (%L) TO (%L)', day, day + 1)))
      and day < ${firstDayNeeded(today)}::date
      and (inhdetachpending or not exists (select from snapshots where snapshot_date = day))
    order by inhdetachpending is true desc, day`.execute(db);
  return rows.map(({ day }) => day);
}

/** Of those that are left, which are written anew. The old size counts besides: all of it is read under the lock. */
const mostRowsToMove = 100_000;
const spareBytes = 16 * 1024 * 1024;
/** Generous: most rows take a tenth of it. */
const bytesPerRow = 4_096;

/**
 * Gives the disk of old days back in which little is left, such as the newest snapshot of a customer who has stopped
 * loading: rows that were deleted leave room that no later day can use. Only exports of that very day have to wait, for as long as
 * the connection's statement_timeout at most; what takes longer is left as it is. Older views still see what they saw, and while one is open
 * the disk is not given back: the next night tries again.
 * @returns how many became smaller
 */
export async function shrinkPartitions(
  db: Database,
  today: string,
  signal: AbortSignal,
): Promise<number> {
  const { rows } = await sql<{ name: string }>`
    select relname as name
    from (select snapshot_date as day, sum(row_count) as left_rows from snapshots
      where snapshot_date < ${firstDayNeeded(today)}::date group by snapshot_date) as registered
    join pg_class on relname = 'snapshot_rows_' || to_char(day, 'YYYYMMDD')
    join pg_inherits on inhrelid = pg_class.oid and inhparent = 'snapshot_rows'::regclass and not inhdetachpending
    where left_rows <= ${mostRowsToMove}
      and pg_table_size(pg_class.oid) > ${spareBytes} + left_rows * ${bytesPerRow}`.execute(db);
  let count = 0;
  for (const { name } of rows) {
    if (signal.aborted) break;
    if (await db.connection().execute(connection => shrink(connection, name))) count += 1;
  }
  return count;
}

async function shrink(connection: Kysely<Tables>, name: string): Promise<boolean> {
  try {
    await shortPatience.execute(connection);
    const size = await sizeOf(connection, name);
    await sql`vacuum (full, analyze) ${sql.table(name)}`.execute(connection);
    return (await sizeOf(connection, name)) < size;
  } catch (error) {
    if (error instanceof DatabaseError && ['55P03', '57014', '42P01'].includes(error.code ?? ''))
      return false;
    throw error;
  } finally {
    await sql`reset lock_timeout`.execute(connection);
  }
}

/** Bytes of the rows, dead ones too. */
async function sizeOf(connection: Kysely<Tables>, name: string): Promise<number> {
  const { rows } = await sql<{
    size: string;
  }>`select pg_relation_size(${name}::regclass) as size`.execute(connection);
  return Number(rows[0]?.size);
}

type Outcome = 'dropped' | 'has rows' | 'in use';

async function dropPartition(connection: Kysely<Tables>, day: string): Promise<Outcome> {
  // The first keeps out whoever makes the partition, the second whoever loads into it.
  const locks = [`warehouse-export partition ${day}`, dayLockName(day)];
  const held: string[] = [];
  try {
    for (const lock of locks) {
      if (!(await ask(connection, sql`pg_try_advisory_lock(hashtextextended(${lock}, 0))`)))
        return 'in use';
      held.push(lock);
    }
    return await dropLocked(connection, day);
  } catch (error) {
    // Lock not available; it takes too long; another partition is being detached; it is gone.
    if (
      error instanceof DatabaseError &&
      ['55P03', '57014', '55000', '42P01'].includes(error.code ?? '')
    )
      return 'in use';
    throw error;
  } finally {
    await sql`reset lock_timeout`.execute(connection);
    for (const lock of held) {
      await ask(connection, sql`pg_advisory_unlock(hashtextextended(${lock}, 0))`);
    }
  }
}

async function dropLocked(connection: Kysely<Tables>, day: string): Promise<Outcome> {
  const partition = sql.table(partitionName(day));
  const hasRows = () => ask(connection, sql`exists (select from ${partition})`);
  const attach = () => sql`select ensure_snapshot_partition(${day}::date)`.execute(connection);
  const state = await stateOf(connection, day);
  if (state === 'pending') {
    await shortPatience.execute(connection);
    await sql`alter table snapshot_rows detach partition ${partition} finalize`.execute(connection);
  }
  if ((await isRegistered(connection, day)) || (await hasRows())) {
    // Written by a transaction that had reached the partition before it was given up.
    if (state === 'pending') await attach();
    return 'has rows';
  }
  if (!(await isForgotten(connection, day))) return 'in use';
  if (state === 'attached') {
    if (await isInUse(connection)) return 'in use';
    await detachPatience.execute(connection);
    await sql`alter table snapshot_rows detach partition ${partition} concurrently`.execute(
      connection,
    );
  }
  // Nobody reaches the table any more through its parent. Who wrote into it just before has been waited for.
  if (await hasRows()) {
    await attach();
    return 'has rows';
  }
  await shortPatience.execute(connection);
  await sql`drop table ${partition}`.execute(connection);
  return 'dropped';
}

/**
 * Whether no transaction, here or on a replica that sends feedback, is so old that it sees rows that were deleted: VACUUM
 * cuts off only what nobody sees. Gives their disk back besides, also where exports never pause.
 */
async function isForgotten(connection: Kysely<Tables>, day: string): Promise<boolean> {
  const isBlank = () => ask(connection, sql`pg_relation_size(${partitionName(day)}::regclass) = 0`);
  if (await isBlank()) return true;
  await detachPatience.execute(connection);
  await sql`vacuum (truncate) ${sql.table(partitionName(day))}`.execute(connection);
  return await isBlank();
}

async function stateOf(
  connection: Kysely<Tables>,
  day: string,
): Promise<'attached' | 'pending' | 'detached'> {
  const { rows } = await sql<{ pending: boolean }>`
    select inhdetachpending as pending from pg_inherits join pg_class on pg_class.oid = inhrelid
    where inhparent = 'snapshot_rows'::regclass and relname = ${partitionName(day)}`.execute(
    connection,
  );
  if (rows[0] === undefined) return 'detached';
  return rows[0].pending ? 'pending' : 'attached';
}

async function isRegistered(connection: Kysely<Tables>, day: string): Promise<boolean> {
  return await ask(connection, sql`exists (select from snapshots where snapshot_date = ${day})`);
}

/** Whether an export or a load is at the rows of any day right now. */
async function isInUse(connection: Kysely<Tables>): Promise<boolean> {
  return await ask(
    connection,
    sql`exists (
      select from pg_locks
      where locktype = 'relation' and relation = 'snapshot_rows'::regclass
        and database = (select oid from pg_database where datname = current_database())
        and pid <> pg_backend_pid())`,
  );
}

async function ask(
  connection: Kysely<Tables>,
  condition: ReturnType<typeof sql>,
): Promise<boolean> {
  const { rows } = await sql<{ answer: boolean }>`select ${condition} as answer`.execute(
    connection,
  );
  return rows[0]?.answer === true;
}
