import type { Pool, PoolClient } from 'pg';
import { lease } from '../db/borrow.ts';
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

const begin = `
  begin isolation level repeatable read read only;
  set local statement_timeout = 0`;

/**
 * Opens a session.
 * @param signal closes the session at once, also while the database sorts
 */
export async function openReadSession(pool: Pool, signal: AbortSignal): Promise<ReadSession> {
  const { client, release } = await lease(pool, signal);
  const close = () => release(new Error('The export was closed before its end.'));
  const query = (text: string) =>
    client.query(text).catch((error: unknown) => {
      close();
      throw error;
    });
  await query(begin);
  return {
    client,
    rows: (environmentId, { snapshotDate, date: shownDate, rowCount }) =>
      copyRows(client, { environmentId, snapshotDate, shownDate, rowCount }),
    async end() {
      await query('commit');
      release();
    },
    close,
  };
}
