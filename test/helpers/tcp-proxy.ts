import { once } from 'node:events';
import net, { type AddressInfo } from 'node:net';

export interface TcpProxy {
  readonly port: number;
  /** Breaks all connections. Refuses new ones until `open` is called. */
  cut(): void;
  open(): void;
  close(): Promise<void>;
}

/** Starts a proxy between the service and another server on 127.0.0.1. */
export async function startTcpProxy(targetPort: number): Promise<TcpProxy> {
  const sockets = new Set<net.Socket>();
  let isCut = false;
  const track = (socket: net.Socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.once('close', () => sockets.delete(socket));
  };
  const server = net.createServer({ allowHalfOpen: true }, socket => {
    track(socket);
    if (isCut) {
      socket.resetAndDestroy();
      return;
    }
    const target = net.connect({ host: '127.0.0.1', port: targetPort, allowHalfOpen: true });
    track(target);
    for (const [from, to] of [
      [socket, target],
      [target, socket],
    ] as const) {
      from.pipe(to);
      from.once('close', hadError => (hadError ? to.resetAndDestroy() : to.destroy()));
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    cut() {
      isCut = true;
      for (const socket of sockets) socket.resetAndDestroy();
    },
    open() {
      isCut = false;
    },
    async close() {
      server.close();
      for (const socket of sockets) socket.destroy();
      await once(server, 'close');
    },
  };
}
