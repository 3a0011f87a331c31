import type { Pool, PoolClient } from 'pg';
import { beginInUtc } from '../snapshots/instants.ts';
import { copyOut } from './copy-reader.ts';
import type { ExportPart } from './plan-export.ts';
import { copyRows } from './select-rows.ts';

/** One connection in one repeatable-read transaction: all that is read through it belongs together. */
export interface ReadSession {
  readonly client: PoolClient;
  /**
   * The rows of a part as CSV, without a header.
   * @throws what the database throws, also when other rows came than the registry promised
   */
  rows(environmentId: string, part: ExportPart): AsyncGenerator<Buffer>;
  /** Gives the connection back after the last row of the last part. */
  end(): Promise<void>;
  /** Gives it back before; the query under way is cancelled. Safe to call again, also after the end. */
  close(): void;
}

const begin = `${beginInUtc('isolation level repeatable read read only')}; set local statement_timeout = 0; set local client_connection_check_interval = '500ms'`;

/** For whoever has to find out why: what the same view shows now, and which view it is. */
const askAgain = `
  select current_setting('transaction_isolation') as isolation, pg_current_snapshot()::text as view,
    now() as "viewedAt", clock_timestamp() as "askedAt", pg_postmaster_start_time() as "serverStartedAt",
    (select to_jsonb(snapshots) from snapshots where environment_id = $1 and snapshot_date = $2::date) as registered,
    (select count(*) from snapshot_rows where environment_id = $1 and snapshot_date = $2::date) as rows`;

/** @param signal closes the session at once, also while the database is still sorting */
export async function openReadSession(pool: Pool, signal: AbortSignal): Promise<ReadSession> {
  signal.throwIfAborted();
  const client = await pool.connect();
  let released = false;
  const release = (broken?: Error) => {
    if (released) return;
    released = true;
    signal.removeEventListener('abort', close);
    client.release(broken);
  };
  // Closing the socket cancels the query: Postgres looks at it when it writes, and at the interval set above.
  const close = () => release(new Error('The export was closed before its end.'));
  signal.addEventListener('abort', close, { once: true });
  try {
    signal.throwIfAborted();
    await client.query(begin);
  } catch (error) {
    close();
    throw error;
  }
  return {
    client,
    async *rows(environmentId, part) {
      const copy = copyOut(client, copyRows(environmentId, part.snapshotDate, part.date));
      yield* copy.bytes;
      if (copy.rowCount !== part.rowCount) {
        const detail = `the registry says ${part.rowCount} rows, the table has ${copy.rowCount}`;
        // What was found stays found when there is no answer.
        const again = await client.query(askAgain, [environmentId, part.snapshotDate]).then(
          ({ rows }) => JSON.stringify(rows[0]),
          (error: unknown) => String(error),
        );
        throw new Error(
          `Snapshot ${part.snapshotDate} of ${environmentId} is not whole: ${detail}. Asked again: ${again}`,
        );
      }
    },
    async end() {
      try {
        await client.query('commit');
        release();
      } catch (error) {
        close();
        throw error;
      }
    },
    close,
  };
}
