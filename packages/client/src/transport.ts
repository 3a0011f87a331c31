import { ApiError, errorOfAnswer, errorWithoutAnswer } from './errors.ts';

/** Sends requests with the caller's token. */
export interface Transport {
  /**
   * Returns any successful answer, whose body is not read yet.
   *
   * @throws {ApiError} if the answer is an error, or if there is none
   */
  send(path: string, init: SendOptions): Promise<Response>;
}

export interface SendOptions {
  readonly method: 'GET' | 'PUT';
  readonly headers?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, string | number | undefined>>;
  readonly body?: NonNullable<RequestInit['body']> | AsyncIterable<Uint8Array>;
  readonly signal?: AbortSignal | undefined;
}

export interface TransportOptions {
  /** Absolute URL of the service without `/v1`. */
  readonly baseUrl: string;
  readonly token: () => Promise<string>;
  readonly fetch: typeof fetch;
}

export function createTransport({ baseUrl, token, fetch }: TransportOptions): Transport {
  return {
    async send(path, { method, headers, query = {}, body, signal }) {
      const url = new URL(baseUrl.replace(/\/$/, '') + path);
      for (const [name, value] of Object.entries(query)) {
        if (value !== undefined) url.searchParams.set(name, String(value));
      }
      const request = { method, url: url.href };
      const init: RequestInit & { duplex: 'half' } = {
        method,
        headers: { ...headers, authorization: `Bearer ${await token()}` },
        // Node and Chromium send a stream only with this member.
        duplex: 'half',
        redirect: 'error',
        ...(body !== undefined && { body: body as NonNullable<RequestInit['body']> }),
        ...(signal && { signal }),
      };
      const answer = await fetch(url, init).catch((error: unknown) => {
        signal?.throwIfAborted();
        throw errorWithoutAnswer(request, error);
      });
      if (answer.ok) return answer;
      throw errorOfAnswer(request, answer, parseJson(await answer.text().catch(() => '')));
    },
  };
}

/** Converts an error of the generated functions. Returns the reason of an abort unchanged. */
export function toApiError(
  error: unknown,
  answer: Response | undefined,
  request: Request | undefined,
): unknown {
  if (error instanceof ApiError || request === undefined || request.signal.aborted) return error;
  if (answer === undefined) return errorWithoutAnswer(request, error);
  return errorOfAnswer(request, answer, error);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
