import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/**
 * Maximum number of requests of one connection that wait in this process. Later ones stay in the
 * buffers of the network.
 */
const maxWaiting = 64;

interface Connection {
  /** Request that is being answered. */
  current: IncomingMessage;
  readonly waiting: [IncomingMessage, ServerResponse][];
  /** Called once all earlier requests are answered. */
  onIdle: (() => void) | null;
}

/**
 * Makes the server answer the requests of each connection one after another. Each request has its
 * own turn of the event loop. Node starts all requests of a piece of 64 KiB in one turn: 1,000
 * pipelined scrapes blocked the process for 3 s.
 *
 * @returns a function that calls `act` once the complete requests of a connection are answered. It
 * calls `act` at once if there is none, or if the rest of the current request is missing
 */
export function answerInTurn(server: Server): (socket: Socket, act: () => void) => void {
  const [handle, ...others] = server.listeners('request');
  if (handle === undefined || others.length > 0) throw new Error('expected one request listener');
  server.removeAllListeners('request');
  const connections = new WeakMap<Socket, Connection>();

  const begin = (connection: Connection, request: IncomingMessage, response: ServerResponse) => {
    connection.current = request;
    response.once('close', () => setImmediate(proceed, request.socket, connection));
    handle.call(server, request, response);
  };

  const proceed = (socket: Socket, connection: Connection) => {
    const [next] = connection.waiting;
    const isOver = socket.destroyed || socket.writableEnded;
    // After malformed bytes, the rest of an incomplete request never arrives.
    const isCutOff = connection.onIdle !== null && next?.[0].complete === false;
    if (next === undefined || isOver || isCutOff) {
      connections.delete(socket);
      connection.onIdle?.();
      // A paused socket would not notice that the client has closed its side.
      if (socket.isPaused()) socket.resume();
      return;
    }
    connection.waiting.shift();
    begin(connection, ...next);
    if (connection.waiting.length < maxWaiting) socket.resume();
    else socket.pause();
  };

  server.on('request', (request, response) => {
    const { socket } = request;
    const connection = connections.get(socket);
    // The service has announced the end of the connection with an earlier answer.
    if (socket.writableEnded) {
      request.resume();
      return;
    }
    if (connection === undefined) {
      const opened: Connection = { current: request, waiting: [], onIdle: null };
      connections.set(socket, opened);
      begin(opened, request, response);
      return;
    }
    connection.waiting.push([request, response]);
    // Later, because Node resumes the socket at the end of each request.
    if (connection.waiting.length === maxWaiting) setImmediate(() => socket.pause());
  });

  return (socket, act) => {
    const connection = connections.get(socket);
    const isComplete = connection?.current.complete === true;
    if (connection === undefined || socket.destroyed || !isComplete) return act();
    socket.pause();
    connection.onIdle ??= act;
  };
}
