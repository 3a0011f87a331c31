import type { IncomingMessage } from 'node:http';
import type { FastifyBaseLogger, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Bindings, ChildLoggerOptions } from 'fastify/types/logger.js';
import { beginRequest, type Span } from '../observability/tracing.ts';
import { callerRequestId } from './request-id.ts';

/** Spans of traced requests. */
const spans = new WeakMap<IncomingMessage, Span>();

/**
 * Probes and scrapes are not traced: they arrive every few seconds and would hide other requests.
 */
const untraced = /^\/(?:health\/|metrics)/;

/** Adds the caller's request id and the trace's id to every log line of a request. */
export function tracedLogger(
  logger: FastifyBaseLogger,
  bindings: Bindings,
  options: ChildLoggerOptions,
  request: IncomingMessage,
): FastifyBaseLogger {
  const callerId = callerRequestId(request.headers);
  const ids = { ...bindings, ...(callerId !== null && { callerRequestId: callerId }) };
  if (untraced.test(request.url ?? '')) return logger.child(ids, options);
  const span = beginRequest(request.method ?? 'HTTP', request.headers);
  spans.set(request, span);
  return logger.child({ ...ids, ...span.ids }, options);
}

/** Makes the handling of each request part of its span. */
export function traceRequests(app: FastifyInstance): void {
  const within = (request: FastifyRequest, done: () => void) => {
    const span = spans.get(request.raw);
    if (span === undefined) done();
    else span.within(done);
  };
  app.addHook('onRequest', (request, reply, done) => {
    endWithAnswer(request, reply);
    within(request, done);
  });
  // Node emits the end of a body outside of any async context, so the span is entered again.
  app.addHook('preValidation', (request, _reply, done) => within(request, done));
}

/**
 * Ends the span of a request when its response closes. Called directly for URLs that reach no hook.
 */
export function endWithAnswer(request: FastifyRequest, reply: FastifyReply): void {
  const span = spans.get(request.raw);
  if (span === undefined) return;
  // Records the route pattern, never the path: the token in a download link opens a file.
  const route = request.is404 ? undefined : request.routeOptions.url;
  const method = request.method;
  span.rename(route === undefined ? method : `${method} ${route}`);
  span.add({
    'http.request.method': method,
    'whx.request.id': request.id,
    ...(route !== undefined && { 'http.route': route }),
  });
  reply.raw.once('close', () => {
    const { statusCode, writableFinished, headersSent } = reply.raw;
    if (headersSent) span.add({ 'http.response.status_code': statusCode });
    if (!writableFinished) span.end(new CutOff());
    else span.end(statusCode >= 500 ? new ServerError(String(statusCode)) : undefined);
  });
}

class CutOff extends Error {
  override readonly name = 'cut_off';
}

class ServerError extends Error {
  override readonly name = 'server_error';
}
