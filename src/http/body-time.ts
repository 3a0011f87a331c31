import type { IncomingMessage } from 'node:http';
import type { FastifyInstance } from 'fastify';

/** How long a caller who has its answer may go on sending the body that nobody reads. */
const drainTimeoutMs = 10_000;

/** How long a small body may take to come. Bodies that are streamed have a limit of their own, without a byte moving. */
const smallBodyTimeoutMs = 20_000;

/**
 * Nobody may hold a connection by sending slowly or without end.
 *
 * An answer may come before the body has (a bad token, a row at fault). What is still on its way is then read and thrown
 * away for a while, because closing at once would reset the connection and lose the answer on its way to the caller.
 */
export function registerBodyTimeLimits(app: FastifyInstance): void {
  app.addHook('onRequest', (request, _reply, done) => {
    if (!/^text\/csv/i.test(request.headers['content-type'] ?? '')) {
      destroyUnlessComplete(request.raw, smallBodyTimeoutMs);
    }
    done();
  });

  const closing = new WeakSet<IncomingMessage>();
  app.addHook('onSend', (request, reply, payload, done) => {
    const { raw } = request;
    if (!raw.complete) {
      // Node would close with the answer, whatever is still on its way; here that comes to its end first. Fastify asks
      // for it with a body that says it is too large, callers by their own header.
      reply.removeHeader('connection');
      if (!reply.raw.shouldKeepAlive) closing.add(raw);
      reply.raw.shouldKeepAlive = true;
    }
    done(null, payload);
  });

  app.addHook('onResponse', (request, _reply, done) => {
    const { raw } = request;
    if (closing.has(raw)) {
      if (raw.complete) raw.socket.end();
      else raw.once('close', () => raw.socket.end());
    }
    if (!raw.complete && !raw.destroyed) {
      destroyUnlessComplete(raw, drainTimeoutMs);
      // Whoever stopped half-way may still be listening, and then the stream would not flow. Where nobody is, it flows
      // already, and the call would stop it.
      if (raw.listenerCount('readable') > 0) raw.removeAllListeners('readable');
      raw.resume();
    }
    done();
  });
}

function destroyUnlessComplete(request: IncomingMessage, timeoutMs: number): void {
  if (request.complete) return;
  const timer = setTimeout(() => {
    if (!request.complete) request.destroy();
  }, timeoutMs);
  timer.unref();
  request.once('close', () => clearTimeout(timer));
}
