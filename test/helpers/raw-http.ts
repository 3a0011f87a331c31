import { once } from 'node:events';
import net from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

/** A TCP connection whose received data and end a test can read. */
export interface RawConnection {
  readonly socket: net.Socket;
  /** Returns all data received so far. */
  received(): Buffer;
  /**
   * Resolves once the other side has ended or broken the connection: `end`, or the error's code.
   */
  readonly closed: Promise<string>;
  /** Waits until the received data matches. */
  until(pattern: RegExp): Promise<void>;
}

/**
 * Opens a connection.
 *
 * @param pauseAfterBytes stops reading after that many bytes; `socket.resume()` continues
 */
export async function connectRaw(
  port: number,
  pauseAfterBytes = Number.POSITIVE_INFINITY,
): Promise<RawConnection> {
  const socket = net.connect({ port, host: '127.0.0.1' });
  const chunks: Buffer[] = [];
  let bytes = 0;
  socket.on('data', chunk => {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes >= pauseAfterBytes) {
      socket.pause();
      bytes = Number.NEGATIVE_INFINITY;
    }
  });
  let how = 'end';
  socket.on('error', (error: NodeJS.ErrnoException) => {
    how = error.code ?? error.message;
  });
  const closed = new Promise<string>(resolve => {
    socket.once('close', () => resolve(how));
  });
  await once(socket, 'connect');
  const received = () => Buffer.concat(chunks);
  return {
    socket,
    received,
    closed,
    until: pattern => eventually(() => pattern.test(received().toString('latin1')), `${pattern}`),
  };
}

/**
 * Waits until a condition holds.
 *
 * @throws after 30 s, because a busy machine may be slow
 */
export async function eventually(
  isSo: () => boolean | Promise<boolean>,
  what = 'it',
  patienceMs = 30_000,
): Promise<void> {
  const deadline = Date.now() + patienceMs;
  while (!(await isSo())) {
    if (Date.now() > deadline) throw new Error(`${what} did not happen within ${patienceMs} ms`);
    await delay(10);
  }
}
