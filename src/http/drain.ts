import { setTimeout as delay } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';

/** How long a connection that carried an answer begun before the stop may wait for the next request. */
const idleWhileStoppingMs = 1_000;

/**
 * From the signal on every answer asks its caller to use another connection, so that the callers have left by themselves
 * when the last connections are closed: one that is closed from here may lose the request that is on its way.
 */
export function registerDrain(app: FastifyInstance, state: { readonly isStopping: boolean }): void {
  app.addHook('onRequest', (_request, reply, done) => {
    if (state.isStopping) reply.raw.shouldKeepAlive = false;
    done();
  });
}

/**
 * Serves on for a moment, in which balancers see that the process is not ready any more, then takes nothing new and
 * resolves when all that was begun has been answered.
 */
export async function drain(app: FastifyInstance, drainMs: number): Promise<void> {
  app.server.keepAliveTimeout = idleWhileStoppingMs;
  await delay(drainMs);
  await app.close();
}
