import type http from 'node:http';
import type https from 'node:https';
import { Readable } from 'node:stream';
import { buildQueryString, type HttpRequest, HttpResponse } from '@smithy/core/protocols';
import { exchange, type HttpAnswer } from '../../outbound/http-exchange.ts';
import { type AnswerLimits, requireSafeXml, uploadsAnswer, usualAnswer } from './response-guard.ts';

/** Limits of one request. */
export interface RequestLimits {
  /** Limit for the connection in milliseconds, including name resolution and TLS. */
  readonly connectMs: number;
  /**
   * Limit for the response in milliseconds. The time that the body of the request needs is added.
   */
  readonly answerMs: number;
  /**
   * Limit for the response to CompleteMultipartUpload in milliseconds. Storage may need minutes.
   */
  readonly completeMs: number;
  /** Minimum rate at which the endpoint must accept the body of the request. */
  readonly minBytesPerSecond: number;
}

/** Measures the time in which this service waits for the storage. */
export interface StoragePace {
  /**
   * Called when a request starts.
   * @returns a function to call when it has ended, with the number of bytes that were accepted
   */
  start(): (bytes: number) => void;
}

interface Agents {
  readonly httpAgent?: http.Agent;
  readonly httpsAgent: https.Agent;
}

/**
 * HTTP layer under the AWS SDK. It reads each response completely, within limits of time and size,
 * and rejects XML that is expensive to parse. `NodeHttpHandler` of the SDK limits neither, and
 * hangs after `101 Switching Protocols`.
 */
export function createRequestHandler(agents: Agents, limits: RequestLimits, pace?: StoragePace) {
  return {
    metadata: { handlerProtocol: 'http/1.1' },
    async handle(
      request: HttpRequest,
      options: { abortSignal?: unknown } = {},
    ): Promise<{ response: HttpResponse }> {
      const isSecure = request.protocol === 'https:';
      const body = bodyOf(request);
      const answerLimits = isListOfUploads(request) ? uploadsAnswer : usualAnswer;
      const answerMs = isCompletion(request) ? limits.completeMs : limits.answerMs;
      const ended = pace?.start();
      let acceptedBytes = 0;
      try {
        const answer = await exchange(
          isSecure,
          {
            method: request.method,
            host: request.hostname.replace(/^\[|\]$/g, ''),
            ...(request.port !== undefined && { port: request.port }),
            path: pathOf(request),
            headers: request.headers,
            agent: isSecure ? agents.httpsAgent : agents.httpAgent,
          },
          body,
          {
            connectMs: limits.connectMs,
            totalMs: answerMs + Math.ceil((1_000 * body.length) / limits.minBytesPerSecond),
            answerBytes: answerLimits.bytes,
            isBodyOptional: isUnavailable,
          },
          options.abortSignal as AbortSignal | undefined,
        );
        const isAccepted = answer.status >= 200 && answer.status < 300;
        if (isAccepted) acceptedBytes = body.length;
        return {
          response: new HttpResponse({
            statusCode: answer.status,
            reason: answer.reason,
            headers: joinHeaders(answer.headers),
            // A stream, because the SDK detects an error inside a 200 only in streams.
            body: Readable.from([safeBody(answer, answerLimits)], { objectMode: false }),
          }),
        };
      } finally {
        ended?.(acceptedBytes);
      }
    },
    destroy() {
      agents.httpAgent?.destroy();
      agents.httpsAgent.destroy();
    },
    // The SDK may change the settings of its handler. This handler has none.
    updateHttpClientConfig() {},
    httpHandlerConfigs: () => ({}),
  };
}

/**
 * Returns the body of an answer. Replaces a dangerous body by an empty one if the status shows that
 * a retry may help.
 *
 * @throws UnexpectedAnswerError if the body is not safe to parse and the status does not help
 */
function safeBody({ status, body }: HttpAnswer, limits: AnswerLimits): Buffer {
  try {
    requireSafeXml(body, limits);
    return body;
  } catch (error) {
    if (isUnavailable(status)) return Buffer.alloc(0);
    throw error;
  }
}

/** Returns true for a status that any proxy may send for an unreachable or busy storage. */
function isUnavailable(status: number): boolean {
  return status >= 500 || status === 429;
}

function pathOf({ path, query }: HttpRequest): string {
  const queryString = buildQueryString(query);
  return queryString === '' ? path : `${path}?${queryString}`;
}

/** Returns the body of a request. Bodies are whole parts, documents or empty, never streams. */
function bodyOf({ body }: HttpRequest): string | Uint8Array {
  if (body === undefined || body === null) return '';
  if (typeof body === 'string' || body instanceof Uint8Array) return body;
  throw new Error('The body of a request must be a string or bytes.');
}

function isListOfUploads({ method, query }: HttpRequest): boolean {
  return method === 'GET' && 'uploads' in query;
}

function isCompletion({ method, query }: HttpRequest): boolean {
  return method === 'POST' && 'uploadId' in query;
}

function joinHeaders(headers: http.IncomingHttpHeaders): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [
      name,
      Array.isArray(value) ? value.join(',') : (value ?? ''),
    ]),
  );
}
