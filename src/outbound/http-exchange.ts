import http from 'node:http';
import https from 'node:https';
import type { OnReadOpts, Socket } from 'node:net';
import { finished } from 'node:stream/promises';
import type { TLSSocket } from 'node:tls';

/** Error for a response that this service does not accept. */
export class UnexpectedAnswerError extends Error {
  override readonly name: string = 'UnexpectedAnswerError';
}

/** Error for an exceeded time limit. The AWS SDK recognizes and retries it by its name. */
export class TimeLimitError extends Error {
  override readonly name = 'TimeoutError';
  readonly code = 'ETIMEDOUT';
}

export interface HttpAnswer {
  readonly status: number;
  readonly reason: string;
  readonly headers: http.IncomingHttpHeaders;
  /** Complete body, not decompressed. */
  readonly body: Buffer;
}

export interface ExchangeLimits {
  /** Limit in milliseconds from the start to the connection, including name resolution and TLS. */
  readonly connectMs: number;
  /** Limit in milliseconds from the start to the last byte of the response. */
  readonly totalMs: number;
  /** Maximum size of the response body. */
  readonly answerBytes: number;
  /** Returns true for a status to accept even if the body is too long, late or incomplete. */
  readonly isBodyOptional: (status: number) => boolean;
}

/** Maximum number of interim responses (1xx). Each costs an object and an event. */
const maxInterimAnswers = 100;

/**
 * Maximum number of chunks of a body. Servers send hundreds of bytes in each, and a chunk of one
 * byte costs as much.
 */
const maxChunks = 1_000;

/**
 * Sends a request and reads the complete response. Every step has a limit, so that a hostile
 * endpoint can neither block the caller nor fill the memory. Redirects are not followed.
 *
 * @throws TimeLimitError, UnexpectedAnswerError, an `AbortError` if the signal aborts, or a network
 * error
 */
export async function exchange(
  isSecure: boolean,
  options: http.RequestOptions,
  body: string | Uint8Array,
  limits: ExchangeLimits,
  signal?: AbortSignal,
): Promise<HttpAnswer> {
  if (signal?.aborted) throw abortError(signal);
  const { promise, resolve, reject } = Promise.withResolvers<HttpAnswer>();
  const request = isSecure ? https.request(options) : http.request({ ...options, ...smallReads() });
  let response: http.IncomingMessage | undefined;
  const fail = (error: Error) => {
    // The reader of the answer decides what an error means for it.
    if (response === undefined) reject(error);
    else response.destroy(error);
  };
  const afterMs = (limitMs: number, what: string) =>
    setTimeout(() => fail(new TimeLimitError(`${what} within ${limitMs} ms`)), limitMs);
  const connecting = afterMs(limits.connectMs, 'no connection');
  const total = afterMs(limits.totalMs, 'no complete answer');
  const onAbort = () => fail(abortError(signal));
  signal?.addEventListener('abort', onAbort, { once: true });

  request.once('socket', socket => {
    const isConnecting = socket.connecting || (isSecure && isHandshaking(socket as TLSSocket));
    if (!isConnecting) clearTimeout(connecting);
    else socket.once(isSecure ? 'secureConnect' : 'connect', () => clearTimeout(connecting));
  });
  let isSent = false;
  request.once('finish', () => {
    isSent = true;
  });
  let interimAnswers = 0;
  request.on('information', () => {
    interimAnswers += 1;
    if (interimAnswers > maxInterimAnswers) {
      request.destroy(new UnexpectedAnswerError('too many interim answers'));
    }
  });
  request.once('upgrade', (_response, socket) => {
    socket.destroy();
    fail(new UnexpectedAnswerError('the answer changes the protocol'));
  });
  request.once('response', incoming => {
    response = incoming;
    readAnswer(incoming, limits).then(resolve, reject);
  });
  // Stays registered: an error after the answer must not end the process.
  request.on('error', error => {
    if (response === undefined) reject(error);
  });
  request.once('close', () => {
    if (response === undefined) reject(new UnexpectedAnswerError('no answer'));
  });
  request.end(body);

  try {
    const answer = await promise;
    // An endpoint cannot have accepted a part that it has not received.
    if (!isSent && answer.status >= 200 && answer.status < 300)
      throw new UnexpectedAnswerError(`status ${answer.status} before the end of the request`);
    return answer;
  } finally {
    clearTimeout(connecting);
    clearTimeout(total);
    signal?.removeEventListener('abort', onAbort);
    // A connection whose request or answer is incomplete cannot be reused.
    if (!request.writableFinished || response?.complete !== true) request.destroy();
  }
}

async function readAnswer(
  response: http.IncomingMessage,
  { answerBytes, isBodyOptional }: ExchangeLimits,
): Promise<HttpAnswer> {
  const { statusCode: status = 0, statusMessage: reason = '', headers } = response;
  const chunks: Buffer[] = [];
  let bytes = 0;
  // A listener sees each chunk at once. `for await` would first receive all of them.
  response.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > answerBytes) {
      response.destroy(new UnexpectedAnswerError(`the answer has more than ${answerBytes} bytes`));
    } else if (chunks.length === maxChunks) {
      response.destroy(new UnexpectedAnswerError(`the answer has more than ${maxChunks} chunks`));
    } else {
      chunks.push(chunk);
    }
  });
  try {
    await finished(response, { writable: false });
  } catch (error) {
    if (!isBodyOptional(status)) throw error;
  }
  return { status, reason, headers, body: Buffer.concat(chunks) };
}

/**
 * Options of a plain connection that reads 4 KiB at a time. Node parses everything that it has read
 * before any limit applies. 64 KiB may hold thousands of chunks or interim responses, which take
 * 150 ms. TLS reads 16 KiB at a time.
 */
function smallReads(): { onread: OnReadOpts } {
  return {
    onread: {
      buffer: Buffer.allocUnsafe(4 * 1024),
      // Node calls it as a method of the socket.
      callback: function push(this: Socket, length: number, buffer: Uint8Array) {
        return this.push(Buffer.from(buffer.subarray(0, length)));
      } as OnReadOpts['callback'],
    },
  };
}

function isHandshaking(socket: TLSSocket): boolean {
  return 'secureConnecting' in socket && socket.secureConnecting === true;
}

function abortError(signal: AbortSignal | undefined): Error {
  const error = new Error('The request was aborted.', { cause: signal?.reason });
  error.name = 'AbortError';
  return error;
}
