import type http from 'node:http';
import type https from 'node:https';
import { Readable } from 'node:stream';
import { buildQueryString, type HttpRequest, HttpResponse } from '@smithy/core/protocols';
import { exchange } from '../../outbound/http-exchange.ts';
import { requireSafeXml, uploadsAnswer, usualAnswer } from './response-guard.ts';

/** Limits of one request. */
export interface RequestLimits {
  /** Until the connection stands, in milliseconds; name resolution and TLS included. */
  readonly connectMs: number;
  /** For the answer, in milliseconds; the time that the body of the request needs is added. */
  readonly answerMs: number;
  /** For the answer to CompleteMultipartUpload, for which a storage may need minutes. */
  readonly completeMs: number;
  /** Rate at which the endpoint must take the body of the request. */
  readonly minBytesPerSecond: number;
}

/** Measures how long the storage keeps this service waiting. */
export interface StoragePace {
  /** Called when a request starts. @returns a function to call when it has ended */
  start(bytes: number): () => void;
}

interface Agents {
  readonly httpAgent?: http.Agent;
  readonly httpsAgent: https.Agent;
}

/**
 * The HTTP layer under the AWS SDK. It reads each answer whole, within limits of time and size, and refuses XML that is
 * expensive to parse. `NodeHttpHandler` of the SDK limits neither, and waits after `101 Switching Protocols`.
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
            // A stream, because the SDK looks for an error inside of a 200 only in streams.
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
    // The SDK may change settings of its own handler. This one has none.
    updateHttpClientConfig() {},
    httpHandlerConfigs: () => ({}),
  };
}

function pathOf({ path, query }: HttpRequest): string {
  const queryString = buildQueryString(query);
  return queryString === '' ? path : `${path}?${queryString}`;
}

/** Bodies are whole parts, documents or empty. A stream would need another way to measure time. */
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
