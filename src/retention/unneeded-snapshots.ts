import { sql, type Transaction } from 'kysely';
import { type Actor, recordChanges } from '../audit/audit-log.ts';
import type { Tables } from '../db/tables.ts';
import { isNeeded } from './needed-dates.ts';

/** Reads and deletes the registry entries of one day. */

export interface SnapshotOfDay {
  readonly environmentId: string;
  /** Date of the environment's next newer snapshot; null if there is none. */
  readonly next: string | null;
  /** Time of rendering; null if the current version is not rendered. */
  readonly renderedAt: Date | null;
}

export async function listSnapshotsOfDay(
  trx: Transaction<Tables>,
  day: string,
): Promise<SnapshotOfDay[]> {
  return await trx
    .selectFrom('snapshots as snapshot')
    .leftJoin('rendered_snapshots as rendered', join =>
      join
        .onRef('rendered.environment_id', '=', 'snapshot.environment_id')
        .onRef('rendered.version', '=', 'snapshot.version'),
    )
    .select(({ selectFrom }) => [
      'snapshot.environment_id as environmentId',
      'rendered.rendered_at as renderedAt',
      selectFrom('snapshots as newer')
        .select('newer.snapshot_date')
        .whereRef('newer.environment_id', '=', 'snapshot.environment_id')
        .whereRef('newer.snapshot_date', '>', 'snapshot.snapshot_date')
        .orderBy('newer.snapshot_date')
        .limit(1)
        .as('next'),
    ])
    .where('snapshot.snapshot_date', '=', day)
    .orderBy('snapshot.environment_id')
    .execute();
}

/**
 * Locks snapshots of the day that no export can show any more, so that no run can be requested for
 * them. Skips snapshots that another transaction has locked or that a run or a backfill has to
 * read.
 * @returns their environments
 */
export async function lockUnneededSnapshots(
  trx: Transaction<Tables>,
  day: string,
  today: string,
): Promise<string[]> {
  const listUnneeded = async () => {
    const snapshots = await listSnapshotsOfDay(trx, day);
    return snapshots
      .filter(({ next }) => !isNeeded(today, day, next))
      .map(({ environmentId }) => environmentId);
  };
  const locked = await trx
    .selectFrom('snapshots')
    .select('environment_id')
    .where('snapshot_date', '=', day)
    .where('environment_id', '=', anyOf(await listUnneeded()))
    .forUpdate()
    .skipLocked()
    .execute();
  if (locked.length === 0) return [];
  const awaited = await trx
    .selectFrom('export_runs')
    .select('environment_id')
    .where('snapshot_date', '=', day)
    .where('state', 'in', ['queued', 'running'])
    .unionAll(
      trx
        .selectFrom('backfills')
        .select('environment_id')
        .where('cancelled_at', 'is', null)
        .where('pending_dates', '<>', sql<string[]>`'{}'`)
        .where(sql<boolean>`${day}::date = any(pending_dates)`),
    )
    .execute();
  // A newer snapshot may have been deleted before the lock.
  const unneeded = new Set(await listUnneeded());
  for (const { environment_id } of awaited) unneeded.delete(environment_id);
  return locked.map(row => row.environment_id).filter(id => unneeded.has(id));
}

/**
 * Deletes registry rows and writes the audit log. Chunks are kept for downloads in progress and
 * deleted later, like those of a replaced version.
 */
export async function deleteUnneededSnapshots(
  trx: Transaction<Tables>,
  actor: Actor,
  day: string,
  environmentIds: readonly string[],
): Promise<void> {
  if (environmentIds.length === 0) return;
  await trx
    .deleteFrom('snapshots')
    .where('snapshot_date', '=', day)
    .where('environment_id', '=', anyOf(environmentIds))
    .execute();
  const changes = environmentIds.map(environmentId => ({
    environmentId,
    action: 'snapshot.deleted' as const,
    targetId: day,
  }));
  await recordChanges(trx, actor, changes);
}

/** Passes any number of values as one parameter. */
function anyOf(values: readonly string[]) {
  return sql<string>`any(${values})`;
}
