import { CompiledQuery, sql } from 'kysely';
import { type Actor, recordChange } from '../audit/audit-log-repository.ts';
import type { Database } from '../db/database.ts';
import { attachDetachedDay, dayLockName, snapshotLockName } from '../db/snapshot-partitions.sql.ts';
import { recordUndatedChanges } from '../db/undated-changes.sql.ts';
import { notFound, snapshotInUse } from '../shared/errors.ts';

/** Complete snapshot in the registry. Instants are ISO 8601. */
export interface Snapshot {
  readonly date: string;
  /** Differs for every replacement. */
  readonly version: string;
  readonly rowCount: number;
  readonly completedAt: string;
  /** Time of rendering; null while this version is not rendered. */
  readonly renderedAt: string | null;
}

/** Returns the snapshots before `before` (`YYYY-MM-DD`), newest first. */
export async function listSnapshots(
  db: Database,
  environmentId: string,
  page: { before: string | null; limit: number },
): Promise<Snapshot[]> {
  const { before } = page;
  const rows = await selectSnapshots(db, environmentId)
    .$if(before !== null, query => query.where('snapshot.snapshot_date', '<', before))
    .orderBy('snapshot.snapshot_date', 'desc')
    .limit(page.limit)
    .execute();
  return rows.map(toSnapshot);
}

/** Returns the snapshot of a date. @throws AppError `not_found` */
export async function findSnapshot(
  db: Database,
  environmentId: string,
  date: string,
): Promise<Snapshot> {
  const row = await selectSnapshots(db, environmentId)
    .where('snapshot.snapshot_date', '=', date)
    .executeTakeFirst();
  if (row === undefined) throw notFound('snapshot');
  return toSnapshot(row);
}

function selectSnapshots(db: Database, environmentId: string) {
  return db
    .selectFrom('snapshots as snapshot')
    .leftJoin('rendered_snapshots as rendered', join =>
      join
        .onRef('rendered.environment_id', '=', 'snapshot.environment_id')
        .onRef('rendered.version', '=', 'snapshot.version'),
    )
    .select([
      'snapshot.snapshot_date as date',
      'snapshot.version',
      'snapshot.row_count as rowCount',
      'snapshot.completed_at as completedAt',
      'rendered.rendered_at as renderedAt',
    ])
    .where('snapshot.environment_id', '=', environmentId);
}

function toSnapshot<T extends { completedAt: Date; renderedAt: Date | null }>(row: T) {
  return {
    ...row,
    completedAt: row.completedAt.toISOString(),
    renderedAt: row.renderedAt?.toISOString() ?? null,
  };
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
      throw snapshotInUse(`The snapshot of ${date} is being ingested or removed.`);
    const deleted = await trx
      .deleteFrom('snapshots')
      .where('environment_id', '=', environmentId)
      .where('snapshot_date', '=', date)
      .returning(['version', 'row_count as rows', 'completed_at as completedAt'])
      .executeTakeFirst();
    if (deleted === undefined) throw notFound('snapshot');
    const { completedAt, ...details } = deleted;
    await trx.executeQuery(CompiledQuery.raw(attachDetachedDay, [date]));
    await trx
      .deleteFrom('snapshot_rows')
      .where('environment_id', '=', environmentId)
      .where('snapshot_date', '=', date)
      .execute();
    // Last, because a snapshot that was completed meanwhile counts too.
    await recordUndatedChanges(trx, [environmentId], completedAt);
    await recordChange(trx, actor, {
      environmentId,
      action: 'snapshot.deleted',
      targetId: date,
      details,
    });
  });
}
