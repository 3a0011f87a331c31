import type { Pool, PoolClient } from 'pg';

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
  signal.throwIfAborted();
  const client = await pool.connect();
  let isReleased = false;
  const release = (broken?: Error) => {
    if (isReleased) return;
    isReleased = true;
    client.release(broken);
  };
  const onAbort = () => release(new Error('The work on this connection was aborted.'));
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    signal.throwIfAborted();
    const result = await work(client);
    release();
    return result;
  } catch (error) {
    release(error instanceof Error ? error : new Error(String(error)));
    throw signal.aborted ? signal.reason : error;
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
