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
import { isOrphaned } from '../db/is-orphaned.ts';
import { isDatabaseUnavailable } from '../db/is-unavailable.ts';
import { isSchemaMissing, pendingMigrations } from '../db/schema-state.ts';
import { AppError, type FieldFault, validationFailed } from '../shared/errors.ts';
import { problemMediaType, toProblem } from './problem.ts';

/** How long a caller should wait when the database cannot be reached. */
const retryAfterSeconds = '5';

/** One place turns everything that can go wrong into a problem body; nothing inside ever shows. */
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
  // Nobody hears the answer then, and it is no fault of ours.
  if (request.raw.socket.destroyed) request.log.info({ err: thrown }, 'the caller hung up');
  else if (error.status >= 500) request.log.error({ err: thrown }, 'request failed');
  return (
    reply
      .code(error.status)
      .headers(error.headers)
      // A URL that cannot be decoded comes here before any hook.
      .header('x-request-id', request.id)
      .type(problemMediaType)
      .serializer(JSON.stringify)
      .send(toProblem(error.code, error.message, request.id, error.members))
  );
}

/**
 * RFC 9112, section 3.2. Links are made from the host, so it has to be one.
 * @throws AppError `validation_failed`
 */
export function requireHost(request: FastifyRequest): void {
  const { host } = request.headers;
  const isHost = host === undefined ? request.raw.httpVersion === '1.0' : hostShape.test(host);
  // The other may come from a proxy that is trusted.
  if (isHost && hostShape.test(request.host)) return;
  throw new AppError('validation_failed', 'The request needs a Host header that names a host.', {
    members: { errors: [] },
  });
}

const hostShape = /^(?:[\w.-]+|\[[\da-f:.]+\])?(?::\d{0,5})?$/i;

/** What a caller may know of anything that was thrown. */
export function toAppError(thrown: unknown): AppError {
  if (thrown instanceof AppError) return thrown;
  if (isOrphaned(thrown)) {
    return new AppError('not_found', 'What this belongs to has just been deleted.', {
      cause: thrown,
    });
  }
  if (isDatabaseUnavailable(thrown)) {
    return new AppError('unavailable', 'The database cannot be reached. Try again shortly.', {
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
    return validationFailed(toFaults(error.validation, error.validationContext));
  switch (error.code) {
    case 'FST_ERR_CTP_INVALID_JSON_BODY':
    case 'FST_ERR_CTP_EMPTY_JSON_BODY':
      return validationFailed([{ path: '', message: 'is not valid JSON' }]);
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new AppError('payload_too_large', 'The body is larger than this path takes.');
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new AppError(
        'unsupported_media_type',
        'The Content-Type is not one that this path takes.',
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
  return new AppError('internal_error', 'Something went wrong on our side.', { cause: thrown });
}

interface SchemaFault {
  readonly keyword?: string;
  readonly instancePath: string;
  readonly message?: string;
  readonly params?: Record<string, unknown>;
}

/** From the validator's words to JSON pointers and a sentence about each field. */
function toFaults(faults: readonly SchemaFault[], context: string | undefined): FieldFault[] {
  const prefix =
    { body: '', querystring: '/query', params: '/path' }[context ?? ''] ?? `/${context}`;
  return (
    faults
      // Said of every property that is not allowed, in the same words, beside the fault that names them.
      .filter(fault => fault.keyword !== 'boolean')
      .flatMap(fault => {
        const { additionalProperties, requiredProperties, allowedValues } = fault.params ?? {};
        const at = `${prefix}${fault.instancePath}`;
        const unknown = texts(additionalProperties).map(name => ({
          path: `${at}/${name}`,
          message: 'is not a known property',
        }));
        const absent = texts(requiredProperties).map(name => ({
          path: `${at}/${name}`,
          message: 'is required',
        }));
        if (unknown.length + absent.length > 0) return [...unknown, ...absent];
        if (Array.isArray(allowedValues))
          return [{ path: at, message: `must be one of ${allowedValues.join(', ')}` }];
        return [{ path: at, message: fault.message ?? 'is not valid' }];
      })
  );
}

function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter(item => typeof item === 'string') : [];
}

/** For bytes that are not HTTP at all, before there is a request: the same problem body, by hand. */
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
  log.info({ requestId, code: error.code, status }, 'not well-formed HTTP');
  const problem = toProblem(
    'validation_failed',
    'The request is not well-formed HTTP.',
    requestId,
    {
      errors: [],
    },
  );
  const body = JSON.stringify({ ...problem, status });
  // As much of the request as there is to see: the piece at which it broke.
  const isHead =
    Buffer.isBuffer(error.rawPacket) && error.rawPacket.toString('latin1', 0, 5) === 'HEAD ';
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\ncontent-type: ${problemMediaType}\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\nx-request-id: ${requestId}\r\nconnection: close\r\n\r\n${isHead ? '' : body}`,
  );
}
