import type { PoolClient } from 'pg';
import { to as copyTo } from 'pg-copy-streams';
import { selectRows } from './select-rows.ts';

/** The rows to read and the date to show them under. */
export interface RowSelection {
  readonly environmentId: string;
  readonly snapshotDate: string;
  readonly shownDate: string;
  /** The number of rows that the registry promises. */
  readonly rowCount: number;
}

/** Bytes that are collected while the reader is busy. Small pieces cost a write to the socket each. */
const pieceBytes = 256 * 1024;

/** Diagnoses a row count mismatch: the registry, the rows and the read view that the session sees now. */
const diagnose = `
  select current_setting('transaction_isolation') as isolation,
    pg_current_snapshot()::text as view, now() as "viewedAt", clock_timestamp() as "askedAt",
    pg_postmaster_start_time() as "serverStartedAt",
    (select to_jsonb(snapshots) from snapshots
      where environment_id = $1 and snapshot_date = $2::date) as registered,
    (select count(*) from snapshot_rows
      where environment_id = $1 and snapshot_date = $2::date) as rows`;

/** The table holds another number of rows than the registry says. */
export class RowCountError extends Error {
  override readonly name = 'RowCountError';
}

/**
 * Streams the rows of a snapshot as CSV, without a header line.
 * The transaction of the client must be one read view in UTC.
 * A caller that stops early must destroy the connection.
 * @throws RowCountError in place of the end when the table holds another number of rows
 */
export async function* copyRows(
  client: PoolClient,
  selection: RowSelection,
): AsyncGenerator<Buffer> {
  const { environmentId, snapshotDate, shownDate, rowCount } = selection;
  const statement = selectRows(environmentId, snapshotDate, shownDate);
  const copy = client.query(copyTo(statement, { highWaterMark: pieceBytes }));
  // A connection that breaks after the reader has stopped reports an error to nobody else.
  copy.on('error', () => {});
  yield* copy as AsyncIterable<Buffer>;
  // The stream may end before the count has arrived. It has once another statement is answered.
  await client.query('select');
  if (copy.rowCount === rowCount) return;
  const state = await client.query(diagnose, [environmentId, snapshotDate]).then(
    ({ rows }) => JSON.stringify(rows[0]),
    (error: unknown) => String(error),
  );
  throw new RowCountError(
    `Row count mismatch for snapshot ${snapshotDate} of ${environmentId}: ` +
      `expected ${rowCount}, read ${copy.rowCount}. State: ${state}`,
  );
}
