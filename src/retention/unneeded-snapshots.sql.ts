import { sql, type Transaction } from 'kysely';
import { recordChanges, systemActor } from '../audit/audit-log-repository.ts';
import type { Tables } from '../db/tables.ts';
import { recordUndatedChanges } from '../db/undated-changes.sql.ts';

/** Finds and deletes the snapshots of one day that no export can show any more. */

/**
 * Locks unneeded snapshots, so that no run can be requested for them. Skips those that another
 * transaction has locked or that a run or a backfill has to read.
 * @param lastDay last day on which a newer snapshot makes a snapshot unneeded
 * @returns the environments of the locked snapshots that may be deleted
 */
export async function lockUnneededSnapshots(
  trx: Transaction<Tables>,
  day: string,
  lastDay: string,
): Promise<string[]> {
  const { rows: locked } = await sql<{ id: string }>`
    select environment_id as id from snapshots as snapshot
    where snapshot_date = ${day}::date
      and exists (
        select from snapshots as newer
        where newer.environment_id = snapshot.environment_id
          and newer.snapshot_date > ${day}::date and newer.snapshot_date <= ${lastDay}::date)
    for update of snapshot skip locked`.execute(trx);
  // A statement after the lock, because it must see every run that was requested before.
  const { rows } = await sql<{ id: string }>`
    select candidate as id from unnest(${locked.map(({ id }) => id)}::text[]) as locked (candidate)
    where not exists (
        select from export_runs
        where environment_id = candidate and snapshot_date = ${day}::date
          and state in ('queued', 'running'))
      and not exists (
        select from backfills
        where environment_id = candidate and cancelled_at is null
          and ${day}::date = any(pending_dates))`.execute(trx);
  return rows.map(({ id }) => id);
}

/**
 * Deletes registry rows and writes the audit log. Chunks are kept for downloads in progress and
 * deleted later, like those of a replaced version.
 */
export async function deleteSnapshots(
  trx: Transaction<Tables>,
  day: string,
  environmentIds: readonly string[],
): Promise<void> {
  await recordUndatedChanges(trx, environmentIds, null);
  await sql`
    delete from snapshots
    where snapshot_date = ${day}::date and environment_id = any(${environmentIds})`.execute(trx);
  const change = { action: 'snapshot.deleted', targetId: day } as const;
  const changes = environmentIds.map(environmentId => ({ environmentId, ...change }));
  await recordChanges(trx, systemActor('retention'), changes);
}
