import type { IncomingMessage } from 'node:http';
import type { FastifyInstance } from 'fastify';

/** Longest time that the rest of a body is read after the response was sent. */
const drainTimeoutMs = 10_000;

/** Longest time to receive a body that is not streamed. Ingests have their own limits. */
const smallBodyTimeoutMs = 20_000;

/**
 * Limits the time of request bodies, so that slow or endless senders cannot hold connections.
 *
 * A response may be sent before its request body has arrived, such as for an invalid token. The
 * rest of the body is then read and discarded for a limited time. Closing at once would reset the
 * connection, and the client might lose the response.
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
      // Node would close the connection with the response although the body is still arriving.
      // Fastify asks for that after a body that is too large, and callers by their own header. Here
      // the connection stays open until the body has ended.
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
      // A reader that stopped midway may have left a `readable` listener, which would keep the
      // stream from flowing. Without such a listener the stream already flows, and removing
      // listeners would stop it.
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
