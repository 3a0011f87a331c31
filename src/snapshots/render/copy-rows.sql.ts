import type { PoolClient } from 'pg';
import { to as copyTo } from 'pg-copy-streams';
import { selectRows } from './select-rows.sql.ts';

/** Rows to read, and the date under which they are shown. */
export interface RowSelection {
  readonly environmentId: string;
  readonly snapshotDate: string;
  readonly shownDate: string;
  /** Number of rows according to the registry. */
  readonly rowCount: number;
}

/**
 * Bytes that are collected while the reader is busy. Each small piece would cost a socket write.
 */
const pieceBytes = 256 * 1024;

/**
 * Query that diagnoses a row count mismatch. It returns the registry row, the number of rows and
 * the read view of the session.
 */
const diagnose = `
  select current_setting('transaction_isolation') as isolation,
    pg_current_snapshot()::text as view, now() as "viewedAt", clock_timestamp() as "askedAt",
    pg_postmaster_start_time() as "serverStartedAt",
    (select to_jsonb(snapshots) from snapshots
      where environment_id = $1 and snapshot_date = $2::date) as registered,
    (select count(*) from snapshot_rows
      where environment_id = $1 and snapshot_date = $2::date) as rows`;

/** Error for a snapshot whose number of rows differs from the registry. */
export class RowCountError extends Error {
  override readonly name = 'RowCountError';
}

/**
 * Streams the output of a COPY statement. Afterwards the connection is free again. A caller that
 * stops early must destroy the connection.
 * @returns the number of rows
 */
export async function* copyOut(
  client: PoolClient,
  statement: string,
): AsyncGenerator<Buffer, number> {
  const copy = client.query(copyTo(statement, { highWaterMark: pieceBytes }));
  // A connection may break after the reader has stopped. Without a listener that error would end
  // the process.
  copy.on('error', () => {});
  yield* copy as AsyncIterable<Buffer>;
  // The stream may end before the count has arrived. The answer to another statement follows it.
  await client.query('select');
  return copy.rowCount;
}

/**
 * Streams the rows of a snapshot as CSV, without a header line. The transaction of the client must
 * be one read view in UTC. A caller that stops early must destroy the connection.
 * @throws RowCountError at the end, if the number of rows differs from the registry
 */
export async function* copyRows(
  client: PoolClient,
  selection: RowSelection,
): AsyncGenerator<Buffer> {
  const { environmentId, snapshotDate, shownDate, rowCount } = selection;
  const statement = selectRows(environmentId, snapshotDate, shownDate);
  const readCount = yield* copyOut(client, statement);
  if (readCount === rowCount) return;
  const state = await client.query(diagnose, [environmentId, snapshotDate]).then(
    ({ rows }) => JSON.stringify(rows[0]),
    (error: unknown) => String(error),
  );
  throw new RowCountError(
    `Row count mismatch for snapshot ${snapshotDate} of ${environmentId}: ` +
      `expected ${rowCount}, read ${readCount}. State: ${state}`,
  );
}
