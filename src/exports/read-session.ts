import type { Pool, PoolClient } from 'pg';
import { beginInUtc } from '../snapshots/instants.ts';
import { copyRows } from '../snapshots/render/copy-rows.ts';
import type { ExportSection } from './plan-export.ts';

/** Connection in a repeatable-read transaction: all reads see one state. */
export interface ReadSession {
  readonly client: PoolClient;
  /**
   * Streams the rows of a section as CSV, without a header line.
   * @throws RowCountError if the number of rows differs from the registry
   */
  rows(environmentId: string, section: ExportSection): AsyncGenerator<Buffer>;
  /** Returns the connection after the last row of the last section. */
  end(): Promise<void>;
  /** Closes the connection, which cancels its running query. Does nothing after `end()`. */
  close(): void;
}

const begin = `${beginInUtc('isolation level repeatable read read only')};
  set local statement_timeout = 0`;

/**
 * Opens a session.
 * @param signal closes the session at once, also while the database sorts
 */
export async function openReadSession(pool: Pool, signal: AbortSignal): Promise<ReadSession> {
  signal.throwIfAborted();
  const client = await pool.connect();
  let isReleased = false;
  const release = (broken?: Error) => {
    if (isReleased) return;
    isReleased = true;
    signal.removeEventListener('abort', close);
    client.release(broken);
  };
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
    rows: (environmentId, { snapshotDate, date: shownDate, rowCount }) =>
      copyRows(client, { environmentId, snapshotDate, shownDate, rowCount }),
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
