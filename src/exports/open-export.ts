import type { Pool, PoolClient } from 'pg';
import { to as copyTo } from 'pg-copy-streams';
import { headerLine } from '../snapshots/columns.ts';
import { beginInUtc } from '../snapshots/instants.ts';
import type { ShownDate } from './aggregations.ts';
import { type ExportPlan, findParts } from './find-parts.ts';
import { copyRows } from './select-rows.ts';

/** A file that is about to be written: what it will hold is settled, its bytes are read at the reader's pace. */
export interface OpenExport {
  readonly plan: ExportPlan;
  /**
   * The CSV, header first. Once through; ends with an error rather than early.
   * @throws what the database throws, also when fewer or more rows came than the registry promised
   */
  bytes(): AsyncGenerator<Buffer>;
  /** Gives the connection back, in the middle too; the query under way is cancelled. Safe to call again. */
  close(): void;
}

/**
 * Opens the file of these dates. Registry and rows are read in one repeatable-read transaction, so a snapshot that is
 * replaced meanwhile shows either as old or as new. Holds one connection of the pool until it is read or closed.
 * @param signal cancels at once, also while the database is still sorting
 */
export async function openExport(
  pool: Pool,
  environmentId: string,
  dates: readonly ShownDate[],
  signal: AbortSignal,
): Promise<OpenExport> {
  signal.throwIfAborted();
  const client = await pool.connect();
  let released = false;
  const release = (broken?: Error) => {
    if (released) return;
    released = true;
    signal.removeEventListener('abort', close);
    client.release(broken);
  };
  // Closing the socket cancels the query: Postgres looks at it when it writes, and at the interval set below.
  const close = () => release(new Error('The export was closed before its end.'));
  signal.addEventListener('abort', close, { once: true });
  try {
    signal.throwIfAborted();
    await client.query(beginExport);
    const plan = await findParts(client, environmentId, dates);
    return { plan, bytes: () => readParts(client, environmentId, plan, release), close };
  } catch (error) {
    close();
    throw error;
  }
}

const beginExport = `${beginInUtc('isolation level repeatable read read only')}; set local statement_timeout = 0; set local client_connection_check_interval = '500ms'`;

async function* readParts(
  client: PoolClient,
  environmentId: string,
  plan: ExportPlan,
  release: (broken?: Error) => void,
): AsyncGenerator<Buffer> {
  try {
    yield Buffer.from(headerLine);
    for (const part of plan.parts) {
      const copy = client.query(copyTo(copyRows(environmentId, part.snapshotDate, part.date)));
      yield* copy as AsyncIterable<Buffer>;
      // The row count comes with the end of the statement, after the last byte.
      await client.query('');
      if (copy.rowCount !== part.rowCount) {
        const detail = `the registry says ${part.rowCount} rows, the table has ${copy.rowCount}`;
        throw new Error(`Snapshot ${part.snapshotDate} of ${environmentId} is not whole: ${detail}.`);
      }
    }
    await client.query('commit');
    release();
  } finally {
    // Only what ended well has been released already.
    release(new Error('The export ended before its end.'));
  }
}
