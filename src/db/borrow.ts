import type { Pool, PoolClient } from 'pg';

/** Connection of a pool. */
export interface Lease {
  readonly client: PoolClient;
  /** Returns the connection, or closes it if it is `broken`. Later calls do nothing. */
  release(broken?: Error): void;
  /** Lets the current statement finish: an abort no longer closes the connection. */
  ignoreAbort(): void;
}

/**
 * Takes a connection. An abort closes it, because a statement may still be running on it.
 * @throws the reason of the signal, or the driver's error
 */
export async function lease(pool: Pool, signal: AbortSignal): Promise<Lease> {
  signal.throwIfAborted();
  const client = await pool.connect();
  let isReleased = false;
  const abort = () => release(new Error('The work on this connection was aborted.'));
  const ignoreAbort = () => signal.removeEventListener('abort', abort);
  const release = (broken?: Error) => {
    if (isReleased) return;
    isReleased = true;
    ignoreAbort();
    client.release(broken);
  };
  if (signal.aborted) abort();
  signal.throwIfAborted();
  signal.addEventListener('abort', abort, { once: true });
  return { client, release, ignoreAbort };
}

/**
 * Runs work on a connection of the pool and returns the connection afterwards.
 * An abort or an error closes the connection, because a statement may still be running on it.
 * @throws the reason of the signal, or what the work throws
 */
export async function borrow<T>(
  pool: Pool,
  signal: AbortSignal,
  work: (client: PoolClient) => Promise<T>,
): Promise<T> {
  const { client, release } = await lease(pool, signal);
  try {
    const result = await work(client);
    release();
    return result;
  } catch (error) {
    release(error instanceof Error ? error : new Error(String(error)));
    throw signal.aborted ? signal.reason : error;
  }
}

/**
 * Runs `work`, which begins a transaction, and commits it. An abort closes the connection, also
 * during a long statement, but cannot interrupt the commit.
 * @throws the reason of the signal, or what the work throws
 */
export async function inTransaction<T>(
  pool: Pool,
  signal: AbortSignal,
  work: (client: PoolClient) => Promise<T>,
): Promise<T> {
  const { client, release, ignoreAbort } = await lease(pool, signal);
  try {
    const result = await work(client);
    signal.throwIfAborted();
    ignoreAbort();
    await client.query('commit');
    return result;
  } catch (error) {
    // After an abort the connection is closed, and the driver's error says only that.
    signal.throwIfAborted();
    await client.query('rollback').catch(release);
    throw error;
  } finally {
    release();
  }
}
