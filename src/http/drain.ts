import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';

/** Idle time after which a kept-alive connection is closed during shutdown. */
const idleWhileStoppingMs = 1_000;

/**
 * Closes each connection with its response once shutdown has begun. Clients then open new
 * connections elsewhere. Closing an idle connection could lose a request that is on its way.
 *
 * When the service stops accepting connections, it closes those without a byte. Browsers open them
 * in advance. Node would wait a minute for their first request.
 */
export function registerDrain(app: FastifyInstance, state: { readonly isStopping: boolean }): void {
  const sockets = new Set<Socket>();
  app.server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  app.addHook('onRequest', (_request, reply, done) => {
    if (state.isStopping) reply.raw.shouldKeepAlive = false;
    done();
  });
  app.addHook('preClose', async () => {
    for (const socket of sockets) if (socket.bytesRead === 0) socket.destroy();
  });
}

/**
 * Continues to serve for `drainMs`, so that load balancers notice that the process is not ready.
 * Then stops accepting connections and resolves when all requests are answered.
 */
export async function drain(app: FastifyInstance, drainMs: number): Promise<void> {
  app.server.keepAliveTimeout = idleWhileStoppingMs;
  await delay(drainMs);
  await app.close();
}
