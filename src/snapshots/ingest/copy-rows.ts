import { DatabaseError, type PoolClient } from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import { partitionName } from '../partitions.sql.ts';

/** COPY in progress. */
export interface CopyRows {
  /** The error that ended the COPY; null while it runs or after it succeeded. */
  readonly error: Error | null;
  /** Sends bytes. Resolves when more may be sent, or when the COPY failed. */
  write(bytes: Buffer): Promise<void>;
  /**
   * Ends the COPY.
   *
   * @returns the number of rows that Postgres stored
   * @throws the error that ended the COPY
   */
  end(): Promise<number>;
  /** Discards the rows, so that the connection accepts statements again. */
  cancel(): void;
}

export function startCopy(client: PoolClient, statement: string): CopyRows {
  const stream = client.query(copyFrom(statement));
  let failure: Error | null = null;
  let wake = () => {};
  stream.on('error', error => {
    failure = error;
    wake();
  });
  const untilDone = (start: (done: () => void) => void) =>
    new Promise<void>(resolve => {
      wake = resolve;
      if (failure !== null) resolve();
      else start(resolve);
    });
  return {
    get error() {
      return failure;
    },
    write: bytes => untilDone(done => stream.write(bytes, done)),
    async end() {
      await untilDone(done => stream.end(done));
      if (failure !== null) throw failure;
      return stream.rowCount;
    },
    cancel() {
      if (failure === null) stream.destroy();
    },
  };
}

/**
 * Returns the number of the row that repeats an earlier key, if that ended a binary COPY, else
 * null. Postgres reports rows in that format, not lines. Only the number is read, because the
 * message may be in any language.
 */
export function duplicateRow(error: unknown, date: string): number | null {
  if (!(error instanceof DatabaseError) || error.code !== '23505') return null;
  const [row] = /\d+/.exec((error.where ?? '').replace(partitionName(date), '')) ?? [];
  return row === undefined ? null : Number(row);
}
