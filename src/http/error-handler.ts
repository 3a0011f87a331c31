import { randomUUID } from 'node:crypto';
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type {
  FastifyBaseLogger,
  FastifyError,
  FastifyInstance,
  FastifyReply,
  FastifyRequest,
} from 'fastify';
import { isDatabaseUnavailable, isOrphaned } from '../db/errors.ts';
import { isSchemaMissing, pendingMigrations } from '../db/schema-state.ts';
import { AppError, type FieldError, validationFailed } from '../shared/errors.ts';
import { jsonBodyLimitBytes } from './json-bodies.ts';
import { problemMediaType, toProblem } from './problem.ts';

/** `Retry-After` in seconds while the database cannot be reached. */
const retryAfterSeconds = '5';

/** Answers every error with a problem body that reveals no internals. */
export function registerErrorHandler(app: FastifyInstance): void {
  app.setErrorHandler((error, request, reply) => sendProblem(error, request, reply));
  app.setNotFoundHandler((request, reply) =>
    sendProblem(new AppError('not_found', 'There is nothing at this path.'), request, reply),
  );
}

export function sendProblem(
  thrown: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
): FastifyReply {
  const error = toAppError(thrown);
  // The client disconnected. This is no error of the service.
  if (request.raw.socket.destroyed)
    request.log.info({ err: thrown }, 'request aborted by the caller');
  else if (error.status >= 500) request.log.error({ err: thrown }, 'request failed');
  return (
    reply
      .code(error.status)
      .headers(error.headers)
      // Set here too, because no hook runs for a URL that cannot be decoded.
      .header('x-request-id', request.id)
      .type(problemMediaType)
      .serializer(JSON.stringify)
      .send(toProblem(error.code, error.message, request.id, error.members))
  );
}

/** Converts an error to one that callers may see. */
export function toAppError(thrown: unknown): AppError {
  if (thrown instanceof AppError) return thrown;
  if (isOrphaned(thrown)) {
    return new AppError('not_found', 'The parent object has just been deleted.', {
      cause: thrown,
    });
  }
  if (isDatabaseUnavailable(thrown)) {
    return new AppError('unavailable', 'The database is not available. Try again shortly.', {
      cause: thrown,
      headers: { 'retry-after': retryAfterSeconds },
    });
  }
  if (isSchemaMissing(thrown)) {
    return new AppError('unavailable', pendingMigrations, {
      cause: thrown,
      headers: { 'retry-after': retryAfterSeconds },
    });
  }
  const error = thrown as Partial<FastifyError> & { headers?: Record<string, string> };
  if (Array.isArray(error.validation))
    return validationFailed(toFieldErrors(error.validation, error.validationContext));
  switch (error.code) {
    case 'FST_ERR_CTP_INVALID_JSON_BODY':
    case 'FST_ERR_CTP_EMPTY_JSON_BODY':
      return validationFailed([{ path: '', message: 'is not valid JSON' }]);
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new AppError(
        'payload_too_large',
        `A JSON body may have at most ${jsonBodyLimitBytes} bytes.`,
      );
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new AppError(
        'unsupported_media_type',
        'This path does not accept the Content-Type of the request.',
      );
  }
  if (error.statusCode === 415)
    return new AppError('unsupported_media_type', 'The media type is not supported.');
  if (error.statusCode === 413) return new AppError('payload_too_large', 'The body is too large.');
  if (error.statusCode !== undefined && error.statusCode >= 400 && error.statusCode < 500) {
    return new AppError('validation_failed', 'The request is malformed.', {
      members: { errors: [] },
    });
  }
  return new AppError('internal_error', 'An internal error occurred.', { cause: thrown });
}

interface SchemaError {
  readonly keyword?: string;
  readonly instancePath: string;
  readonly message?: string;
  readonly params?: Record<string, unknown>;
}

/** Most field errors that a problem body lists. */
const maxFieldErrors = 20;

/** Longest part of an unknown property name that a problem body shows, in characters. */
const maxShownName = 100;

/** Converts errors of the validator to JSON pointers and a sentence about each field. */
function toFieldErrors(errors: readonly SchemaError[], context: string | undefined): FieldError[] {
  const prefix =
    { body: '', querystring: '/query', params: '/path' }[context ?? ''] ?? `/${context}`;
  return (
    errors
      // The validator repeats each unknown property as an error of this keyword.
      .filter(error => error.keyword !== 'boolean')
      .flatMap(error => {
        const { additionalProperties, requiredProperties, allowedValues } = error.params ?? {};
        const at = `${prefix}${error.instancePath}`;
        const unknown = texts(additionalProperties).map(name => ({
          path: `${at}/${escapePointer(name)}`,
          message: 'is not a known property',
        }));
        const absent = texts(requiredProperties).map(name => ({
          path: `${at}/${name}`,
          message: 'is required',
        }));
        if (unknown.length + absent.length > 0) return [...unknown, ...absent];
        if (Array.isArray(allowedValues))
          return [{ path: at, message: `must be one of ${allowedValues.join(', ')}` }];
        return [{ path: at, message: error.message ?? 'is not valid' }];
      })
      .slice(0, maxFieldErrors)
  );
}

/** Escapes a name for a JSON pointer (RFC 6901, section 3). Cuts long names. */
function escapePointer(name: string): string {
  const shown = name.length > maxShownName ? `${name.slice(0, maxShownName)}…` : name;
  return shown.replaceAll('~', '~0').replaceAll('/', '~1');
}

function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter(item => typeof item === 'string') : [];
}

/** Answers bytes that are not HTTP with a problem body. There is no request object for them. */
export function answerBrokenHttp(
  error: Error & { code?: string; rawPacket?: unknown },
  socket: Socket,
  log: FastifyBaseLogger,
): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  const status =
    { ERR_HTTP_REQUEST_TIMEOUT: 408, HPE_HEADER_OVERFLOW: 431 }[error.code ?? ''] ?? 400;
  const requestId = randomUUID();
  log.info({ requestId, code: error.code, status }, 'malformed HTTP request');
  const problem = toProblem(
    'validation_failed',
    'The request is not well-formed HTTP.',
    requestId,
    {
      errors: [],
    },
  );
  const body = JSON.stringify({ ...problem, status });
  // Only the packet at which the parser failed is known of the request.
  const isHead =
    Buffer.isBuffer(error.rawPacket) && error.rawPacket.toString('latin1', 0, 5) === 'HEAD ';
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\ncontent-type: ${problemMediaType}\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\nx-request-id: ${requestId}\r\nconnection: close\r\n\r\n${isHead ? '' : body}`,
  );
}
