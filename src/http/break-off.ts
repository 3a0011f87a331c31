import type { Socket } from 'node:net';

/**
 * Ends a connection so that its other side sees an error. After an orderly end, a client that reads until the connection
 * ends, as HTTP/1.0 does, would take what came for the whole.
 */
export function breakOff(socket: Socket): void {
  // libuv cannot reset a connection whose end is on its way; by then all has been written.
  if (socket.writableEnded) socket.destroy();
  else socket.resetAndDestroy();
}
