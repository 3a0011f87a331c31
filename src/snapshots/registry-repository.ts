import { sql } from 'kysely';
import { type Actor, recordChange } from '../audit/audit-log.ts';
import type { Database } from '../db/database.ts';
import { AppError, notFound } from '../shared/errors.ts';
import { attachLeftPartition, dayLockName, snapshotLockName } from './partitions.sql.ts';

/** A complete snapshot as the registry knows it. */
export interface Snapshot {
  readonly date: string;
  readonly rowCount: number;
  readonly completedAt: string;
}

/** Newest first, those before `before` (`YYYY-MM-DD`). */
export async function listSnapshots(
  db: Database,
  environmentId: string,
  page: { before: string | null; limit: number },
): Promise<Snapshot[]> {
  const { before } = page;
  const rows = await db
    .selectFrom('snapshots')
    .select(['snapshot_date', 'row_count', 'completed_at'])
    .where('environment_id', '=', environmentId)
    .where(({ eb, val }) => (before === null ? val(true) : eb('snapshot_date', '<', before)))
    .orderBy('snapshot_date', 'desc')
    .limit(page.limit)
    .execute();
  return rows.map(row => ({
    date: row.snapshot_date,
    rowCount: row.row_count,
    completedAt: row.completed_at.toISOString(),
  }));
}

/**
 * Deletes a snapshot with its rows. Its chunks are deleted later, like those of a replaced version.
 * @throws AppError `not_found`; `conflict` while it is being ingested or its day is being removed
 */
export async function deleteSnapshot(
  db: Database,
  actor: Actor,
  environmentId: string,
  date: string,
): Promise<void> {
  await db.transaction().execute(async trx => {
    const { rows } = await sql<{ locked: boolean }>`
      select pg_try_advisory_xact_lock_shared(hashtextextended(${dayLockName(date)}, 0))
        and pg_try_advisory_xact_lock(
          hashtextextended(${snapshotLockName(environmentId, date)}, 0)) as locked`.execute(trx);
    if (rows[0]?.locked !== true)
      throw new AppError('conflict', `The snapshot of ${date} is being ingested or removed.`);
    const deleted = await trx
      .deleteFrom('snapshots')
      .where('environment_id', '=', environmentId)
      .where('snapshot_date', '=', date)
      .executeTakeFirst();
    if (deleted.numDeletedRows === 0n) throw notFound('snapshot');
    await attachLeftPartition(trx, date);
    await trx
      .deleteFrom('snapshot_rows')
      .where('environment_id', '=', environmentId)
      .where('snapshot_date', '=', date)
      .execute();
    await recordChange(trx, actor, { environmentId, action: 'snapshot.deleted', targetId: date });
  });
}
