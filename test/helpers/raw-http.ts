import { once } from 'node:events';
import net from 'node:net';
import { waitFor } from './wait-for.ts';

/** A TCP connection whose received data and end a test can read. */
export interface RawConnection {
  readonly socket: net.Socket;
  /** Reads to the end. A pause that is still to come is left out. */
  resume(): void;
  /** Returns all data received so far. */
  received(): Buffer;
  /**
   * Resolves once the other side has ended or broken the connection: `end`, or the error's code.
   */
  readonly closed: Promise<string>;
  /** Waits until the received data matches. */
  waitFor(pattern: RegExp): Promise<unknown>;
}

/**
 * Opens a connection.
 *
 * @param pauseAfterBytes stops reading after that many bytes, until `resume()`
 */
export async function connectRaw(
  port: number,
  pauseAfterBytes = Number.POSITIVE_INFINITY,
): Promise<RawConnection> {
  const socket = net.connect({ port, host: '127.0.0.1' });
  const chunks: Buffer[] = [];
  let bytes = 0;
  let pausesAt = pauseAfterBytes;
  const resume = () => {
    pausesAt = Number.POSITIVE_INFINITY;
    socket.resume();
  };
  socket.on('data', chunk => {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes >= pausesAt) socket.pause();
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
    resume,
    received,
    closed,
    waitFor: pattern =>
      waitFor(`data that matches ${pattern}`, () => received().toString('latin1'), {
        isWanted: text => pattern.test(text),
      }),
  };
}
