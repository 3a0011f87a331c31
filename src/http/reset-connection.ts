import type { Socket } from 'node:net';

/**
 * Closes a connection with a TCP reset, so that the other side sees an error.
 * An orderly end would look like the end of the file to an HTTP/1.0 client.
 */
export function resetConnection(socket: Socket): void {
  // libuv cannot reset a connection that is being shut down. Its data has been written by then.
  if (socket.writableEnded) socket.destroy();
  else socket.resetAndDestroy();
}
