/** Returns the name of the partition that `ensure_snapshot_partition` makes for a day. */
export function partitionName(date: string): string {
  return `snapshot_rows_${date.replaceAll('-', '')}`;
}

/**
 * Returns the name of the advisory lock of a day's partition. An ingest holds it shared, so that the partition stays.
 * Retention holds it alone while it removes the partition.
 */
export function dayLockName(date: string): string {
  return `warehouse-export day ${date}`;
}

/** Returns the name of the advisory lock that an ingest, a delete and retention hold for one snapshot. */
export function snapshotLockName(environmentId: string, date: string): string {
  return `warehouse-export snapshot ${environmentId} ${date}`;
}
