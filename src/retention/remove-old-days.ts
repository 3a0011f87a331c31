import { type Kysely, sql, type Transaction } from 'kysely';
import { DatabaseError } from 'pg';
import { systemActor } from '../audit/audit-log.ts';
import type { Database } from '../db/database.ts';
import { dayLockName, partitionLockName, partitionName } from '../db/snapshot-partitions.sql.ts';
import type { Tables } from '../db/tables.ts';
import { firstDayNeeded, isNeeded } from './needed-dates.ts';
import {
  deleteUnneededSnapshots,
  listSnapshotsOfDay,
  lockUnneededSnapshots,
} from './unneeded-snapshots.ts';

/** Result of the removal of days before the last 31. */
export interface RemovedDays {
  readonly partitions: number;
  readonly snapshots: number;
  /** Days that keep their rows because a snapshot that exports may show is not rendered. */
  readonly unrendered: readonly string[];
  /** Days that keep their rows because some belong to no registered snapshot. */
  readonly unregistered: readonly string[];
}

export interface RemovalOptions {
  readonly now: Date;
  /** Ends the work after the current day. */
  readonly signal: AbortSignal;
  /**
   * Longest wait in milliseconds for transactions that use rows of any day. Meanwhile only ingests
   * into the old day wait too. Must be less than the 27 s in which a worker shuts down.
   */
  readonly patienceMs: number;
}

interface DayToRemove {
  readonly day: string;
  /** Current UTC date, `YYYY-MM-DD`. */
  readonly today: string;
  /** Time before which a snapshot was rendered if no transaction reads its rows any more. */
  readonly renderedBefore: Date;
  readonly patienceMs: number;
}

type PartitionState = 'attached' | 'pending' | 'detached' | 'absent';
type Blocker = 'in use' | 'unrendered' | 'unregistered';
type Outcome = Blocker | { readonly snapshots: number; readonly isDropped: boolean };

/**
 * Longest time for which rows are read after their snapshot was rendered. Transactions that began
 * before may still read them, and no download or run takes a day.
 */
const rowsAreReadForMs = 24 * 60 * 60 * 1000;

const actor = systemActor('retention');
/**
 * Lock timeout of short waits. Longer than `deadlock_timeout`, after which autovacuum yields. Short
 * because a new day waits while the end of a detachment waits for older transactions.
 */
const shortPatience = sql`set lock_timeout = '2s'`;

/**
 * Drops partitions of old days whose snapshots are rendered, and deletes snapshots of old days that
 * no export can show any more. Works day by day. Skips days that are in use until the next night.
 */
export async function removeOldDays(
  db: Database,
  { now, signal, patienceMs }: RemovalOptions,
): Promise<RemovedDays> {
  const today = now.toISOString().slice(0, 10);
  const renderedBefore = new Date(now.getTime() - rowsAreReadForMs);
  let [partitions, snapshots] = [0, 0];
  const kept: Record<Blocker, string[]> = { 'in use': [], unrendered: [], unregistered: [] };
  for (const day of await listOldDays(db, today)) {
    if (signal.aborted) break;
    const outcome = await db
      .connection()
      .execute(connection => removeDay(connection, { day, today, renderedBefore, patienceMs }));
    if (typeof outcome === 'string') {
      kept[outcome].push(day);
    } else {
      snapshots += outcome.snapshots;
      if (outcome.isDropped) partitions += 1;
    }
  }
  const { unrendered, unregistered } = kept;
  return { partitions, snapshots, unrendered, unregistered };
}

/**
 * Lists old days that have snapshots or a partition, oldest first. A partition with an interrupted
 * detachment comes first, because Postgres detaches no other one until it is detached.
 */
async function listOldDays(db: Database, today: string): Promise<string[]> {
  const { rows } = await sql<{ day: string }>`
    with partitions as (
      select day, inhdetachpending is true as is_pending
      from pg_class
      left join pg_inherits on inhrelid = pg_class.oid
      cross join lateral (select to_date(right(relname, 8), 'YYYYMMDD') as day) as named
      where relname ~ '^snapshot_rows_[0-9]{8}$' and relkind = 'r'
        and relnamespace = (select relnamespace from pg_class where oid = 'snapshot_rows'::regclass)
        and (inhparent is null
          or (inhparent = 'snapshot_rows'::regclass
            and pg_get_expr(relpartbound, pg_class.oid)
              = format('FOR VALUES FROM (%L) TO (%L)', day, day + 1)))
    )
    select day
    from (
      select day, is_pending from partitions
      union all
      select distinct snapshot_date, false from snapshots
    ) as old
    where day < ${firstDayNeeded(today)}::date
    group by day
    order by bool_or(is_pending) desc, day`.execute(db);
  return rows.map(({ day }) => day);
}

async function removeDay(connection: Kysely<Tables>, wanted: DayToRemove): Promise<Outcome> {
  // The first lock blocks the creation of the partition, the second blocks ingests.
  const locks = [partitionLockName(wanted.day), dayLockName(wanted.day)];
  const held: string[] = [];
  try {
    for (const lock of locks) {
      if (!(await ask(connection, sql`pg_try_advisory_lock(hashtextextended(${lock}, 0))`)))
        return 'in use';
      held.push(lock);
    }
    return await removeLockedDay(connection, wanted);
  } catch (error) {
    if (isInUse(error)) return 'in use';
    throw error;
  } finally {
    await sql`reset lock_timeout`.execute(connection);
    for (const lock of held)
      await ask(connection, sql`pg_advisory_unlock(hashtextextended(${lock}, 0))`);
  }
}

async function removeLockedDay(connection: Kysely<Tables>, wanted: DayToRemove): Promise<Outcome> {
  const { day, patienceMs } = wanted;
  const partition = sql.table(partitionName(day));
  const state = await stateOf(connection, day);
  if (state === 'attached') {
    // An interrupted detachment delays others, so check before detaching.
    const { blocker } = await connection
      .transaction()
      .execute(trx => inspectDay(trx, wanted, state));
    if (blocker !== null) return blocker;
    if (await areRowsInLongUse(connection, patienceMs)) return 'in use';
    await sql`set lock_timeout = ${sql.lit(patienceMs)}`.execute(connection);
    await sql`alter table snapshot_rows detach partition ${partition} concurrently`.execute(
      connection,
    );
  }
  await shortPatience.execute(connection);
  if (state === 'pending')
    await sql`alter table snapshot_rows detach partition ${partition} finalize`.execute(connection);
  // The parent no longer includes the table, and transactions that wrote into it have ended. This
  // inspection is therefore final.
  const outcome = await connection.transaction().execute(async (trx): Promise<Outcome> => {
    await sql`set local statement_timeout = 0`.execute(trx);
    const { blocker, unneeded } = await inspectDay(trx, wanted, state);
    if (blocker !== null) return blocker;
    if (state !== 'absent') await sql`drop table ${partition}`.execute(trx);
    await deleteUnneededSnapshots(trx, actor, day, unneeded);
    return { snapshots: unneeded.length, isDropped: state !== 'absent' };
  });
  if (typeof outcome === 'string' && state !== 'absent')
    await sql`select ensure_snapshot_partition(${day}::date)`.execute(connection);
  return outcome;
}

interface DayInspection {
  /** Reason why the day keeps its rows; null if it may be removed. */
  readonly blocker: Blocker | null;
  /** Environments whose snapshot of the day may be deleted. Their registry rows are locked. */
  readonly unneeded: readonly string[];
}

async function inspectDay(
  trx: Transaction<Tables>,
  { day, today, renderedBefore }: DayToRemove,
  state: PartitionState,
): Promise<DayInspection> {
  const unneeded = await lockUnneededSnapshots(trx, day, today);
  if (state === 'absent') return { blocker: null, unneeded };
  const deleted = new Set(unneeded);
  const stillRead = (await listSnapshotsOfDay(trx, day)).filter(
    ({ environmentId, renderedAt }) =>
      !deleted.has(environmentId) && (renderedAt === null || renderedAt >= renderedBefore),
  );
  if (stillRead.some(({ next, renderedAt }) => renderedAt === null && isNeeded(today, day, next)))
    return { blocker: 'unrendered', unneeded };
  if (stillRead.length > 0) return { blocker: 'in use', unneeded };
  const isUnregistered = await hasUnregisteredRows(trx, day, state);
  return { blocker: isUnregistered ? 'unregistered' : null, unneeded };
}

/**
 * Returns true if the partition has rows of an environment without a snapshot of the day. Reads one
 * index entry per environment. Deleting an environment does not reach a table that is being
 * detached, so rows of deleted environments do not count there.
 */
async function hasUnregisteredRows(
  trx: Transaction<Tables>,
  day: string,
  state: PartitionState,
): Promise<boolean> {
  const partition = sql.table(partitionName(day));
  const { rows } = await sql<{ found: boolean }>`
    with recursive present as (
      (select environment_id from ${partition} order by environment_id limit 1)
      union all
      select (
        select more.environment_id from ${partition} as more
        where more.environment_id > present.environment_id order by more.environment_id limit 1)
      from present where present.environment_id is not null
    )
    select exists (
      select from present
      where environment_id is not null
        and not exists (
          select from snapshots
          where snapshots.environment_id = present.environment_id and snapshot_date = ${day}::date)
        and (${state === 'attached'}
          or exists (select from environments where id = present.environment_id))
    ) as found`.execute(trx);
  return rows[0]?.found === true;
}

async function stateOf(connection: Kysely<Tables>, day: string): Promise<PartitionState> {
  const { rows } = await sql<{ parent: number | null; isPending: boolean | null }>`
    select inhparent as parent, inhdetachpending as "isPending"
    from pg_class left join pg_inherits on inhrelid = pg_class.oid
    where relname = ${partitionName(day)}
      and relnamespace = (select relnamespace from pg_class where oid = 'snapshot_rows'::regclass)`.execute(
    connection,
  );
  if (rows[0] === undefined) return 'absent';
  if (rows[0].parent === null) return 'detached';
  return rows[0].isPending === true ? 'pending' : 'attached';
}

/** Returns true if a transaction that uses rows of any day is already older than `ms`. */
async function areRowsInLongUse(connection: Kysely<Tables>, ms: number): Promise<boolean> {
  return await ask(
    connection,
    sql`exists (
      select from pg_locks join pg_stat_activity using (pid)
      where locktype = 'relation' and relation = 'snapshot_rows'::regclass
        and database = (select oid from pg_database where datname = current_database())
        and pid <> pg_backend_pid()
        and xact_start < clock_timestamp() - ${ms}::integer * interval '1 ms')`,
  );
}

/** Returns true for a lock or statement timeout, another pending detachment, or a missing table. */
function isInUse(error: unknown): boolean {
  return (
    error instanceof DatabaseError &&
    ['55P03', '57014', '55000', '42P01'].includes(error.code ?? '')
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
