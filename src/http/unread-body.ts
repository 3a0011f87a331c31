import type { FastifyInstance } from 'fastify';

/** How long a caller who has its answer may go on sending the body that nobody reads. */
const drainTimeoutMs = 10_000;

/**
 * An answer may come before the body has (a bad token, a row at fault). What is still on its way is read and thrown
 * away for a while, because closing at once would reset the connection and lose the answer on its way to the caller.
 */
export function registerBodyDrain(app: FastifyInstance): void {
  app.addHook('onResponse', (request, _reply, done) => {
    const { raw } = request;
    if (!raw.complete && !raw.destroyed) {
      const timer = setTimeout(() => raw.destroy(), drainTimeoutMs);
      raw.once('close', () => clearTimeout(timer));
      raw.resume();
    }
    done();
  });
}
