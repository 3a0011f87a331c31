import type { PoolClient } from 'pg';

/** Names, locks and statements for the partitions of `snapshot_rows`, one for each day. */

/** Returns the name of the partition that `ensure_snapshot_partition` creates for a day. */
export function partitionName(date: string): string {
  return `snapshot_rows_${date.replaceAll('-', '')}`;
}

/**
 * Returns the name of the advisory lock with which `ensure_snapshot_partition` creates a partition.
 */
export function partitionLockName(date: string): string {
  return `warehouse-export partition ${date}`;
}

/**
 * Returns the name of the advisory lock of a day's partition. Ingests and renderings hold it
 * shared, so that the partition stays. Retention holds it exclusively while it removes the
 * partition.
 */
export function dayLockName(date: string): string {
  return `warehouse-export day ${date}`;
}

/**
 * Holds the lock of a day shared until the end of the transaction. Waits while retention removes
 * the partition.
 */
export async function holdDay(client: PoolClient, date: string): Promise<void> {
  await client.query('select pg_advisory_xact_lock_shared(hashtextextended($1, 0))', [
    dayLockName(date),
  ]);
}

/**
 * Returns the name of the advisory lock of one snapshot. Ingests, deletions and retention hold it.
 */
export function snapshotLockName(environmentId: string, date: string): string {
  return `warehouse-export snapshot ${environmentId} ${date}`;
}

/**
 * Attaches the day's table again if retention has detached but not dropped it. `snapshot_rows` does
 * not show the rows of a detached table. Waits for retention. Parameter: the date.
 */
export const attachDetachedDay = `
  select ensure_snapshot_partition($1::date)
  where exists (
    select from pg_class left join pg_inherits on inhrelid = pg_class.oid
    where relname = 'snapshot_rows_' || to_char($1::date, 'YYYYMMDD') and relkind = 'r'
      and inhdetachpending is not false
      and relnamespace = (
        select relnamespace from pg_class where oid = 'snapshot_rows'::regclass))`;
