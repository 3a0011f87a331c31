import { sql, type Transaction } from 'kysely';
import type { Tables } from '../db/tables.ts';

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
 * Returns the name of the advisory lock of a day's partition. Ingests hold it shared, so that the
 * partition stays. Retention holds it exclusively while it removes the partition.
 */
export function dayLockName(date: string): string {
  return `warehouse-export day ${date}`;
}

/**
 * Returns the name of the advisory lock of one snapshot. Ingests, deletions and retention hold it.
 */
export function snapshotLockName(environmentId: string, date: string): string {
  return `warehouse-export snapshot ${environmentId} ${date}`;
}

/**
 * Attaches the day's table again if retention has detached but not dropped it. `snapshot_rows` does
 * not show the rows of a detached table.
 */
export async function attachLeftPartition(trx: Transaction<Tables>, date: string): Promise<void> {
  await sql`
    select ensure_snapshot_partition(${date}::date)
    where exists (
      select from pg_class left join pg_inherits on inhrelid = pg_class.oid
      where relname = ${partitionName(date)} and relkind = 'r' and inhdetachpending is not false
        and relnamespace = (
          select relnamespace from pg_class where oid = 'snapshot_rows'::regclass))`.execute(trx);
}
