import type { StoredColumn } from '../columns.ts';
import { beginInUtc } from '../instants.ts';
import { partitionName } from '../partitions.sql.ts';

/** Creates the partition of the day ($1) unless it exists. */
export const ensurePartition = 'select ensure_snapshot_partition($1::date)';

export const beginIngest = `${beginInUtc()}; set local statement_timeout = 0`;

/** Takes the lock of the day ($1) until the transaction ends. */
export const shareDay = 'select pg_advisory_xact_lock_shared(hashtextextended($1, 0))';

/** Tries to take the lock of the snapshot ($1) until the transaction ends. */
export const tryLockSnapshot =
  'select pg_try_advisory_xact_lock(hashtextextended($1, 0)) as locked';

/** Returns whether the partition ($1) is attached. */
export const isPartitionAttached = `
  select exists (
    select from pg_class join pg_inherits on inhrelid = pg_class.oid
    where relname = $1 and inhparent = 'snapshot_rows'::regclass and not inhdetachpending
  ) as attached`;

export const deleteRows = `
  delete from snapshot_rows where environment_id = $1 and snapshot_date = $2::date`;

export function copyRows(date: string, columns: readonly StoredColumn[]): string {
  const names = ['environment_id', 'snapshot_date', ...columns.map(column => column.name)];
  return `copy ${partitionName(date)} (${names.join(', ')}) from stdin (format binary)`;
}

/** Parameters: environment, date, number of rows, instant. */
export const registerSnapshot = `
  insert into snapshots (environment_id, snapshot_date, row_count, completed_at)
  values ($1, $2::date, $3, $4)
  on conflict (environment_id, snapshot_date) do update
    set version = default, row_count = excluded.row_count, completed_at = excluded.completed_at
  returning version, (xmax = 0) as created`;
