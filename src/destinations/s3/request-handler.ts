import type http from 'node:http';
import type https from 'node:https';
import { Readable } from 'node:stream';
import { buildQueryString, type HttpRequest, HttpResponse } from '@smithy/core/protocols';
import { exchange } from '../../outbound/http-exchange.ts';
import { requireSafeXml, uploadsAnswer, usualAnswer } from './response-guard.ts';

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
  /** Called when a request starts. @returns a function to call when it has ended */
  start(bytes: number): () => void;
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
      const ended = pace?.start(body.length);
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
            isBodyOptional: false,
          },
          options.abortSignal as AbortSignal | undefined,
        );
        requireSafeXml(answer.body, answerLimits);
        return {
          response: new HttpResponse({
            statusCode: answer.status,
            reason: answer.reason,
            headers: joinHeaders(answer.headers),
            // A stream, because the SDK detects an error inside a 200 only in streams.
            body: Readable.from([answer.body], { objectMode: false }),
          }),
        };
      } finally {
        ended?.();
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

function pathOf({ path, query }: HttpRequest): string {
  const queryString = buildQueryString(query);
  return queryString === '' ? path : `${path}?${queryString}`;
}

/** Returns the length of a body. Bodies are whole parts, documents or empty, never streams. */
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
