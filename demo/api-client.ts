import { setTimeout as delay } from 'node:timers/promises';

/** Error answer of the service, or no answer. The message says what to do. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  /** HTTP status, or null without an answer. */
  readonly status: number | null;

  constructor(message: string, status: number | null, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
  }
}

export interface ApiClient {
  readonly url: string;
  readonly token: string;
}

interface ApiRequest {
  readonly method: 'GET' | 'PUT' | 'POST';
  /** Path below `/v1`. */
  readonly path: string;
  readonly content?: {
    readonly type: string;
    readonly encoding?: 'gzip';
    /** Called for each attempt, because a stream can be sent only once. */
    readonly body: () => string | AsyncIterable<Uint8Array>;
  };
  readonly signal: AbortSignal;
}

const attempts = 3;

export function jsonContent(value: unknown): ApiRequest['content'] & object {
  return { type: 'application/json', body: () => JSON.stringify(value) };
}

/**
 * Sends one request and returns the JSON answer. Retries while the service is busy.
 *
 * @throws {ApiError} if the answer is an error, or if there is none
 */
export async function callApi(client: ApiClient, request: ApiRequest): Promise<unknown> {
  for (let attempt = 1; ; attempt++) {
    const response = await send(client, request);
    if (response.ok) return response.json();
    const isBusy = response.status === 429 || response.status === 503;
    if (!isBusy || attempt === attempts) {
      throw new ApiError(await explain(response, request), response.status);
    }
    await response.body?.cancel();
    const seconds = Number(response.headers.get('retry-after') ?? '1');
    await delay(1000 * Math.min(60, Number.isFinite(seconds) ? seconds : 1), undefined, {
      signal: request.signal,
    });
  }
}

async function send(client: ApiClient, request: ApiRequest): Promise<Response> {
  try {
    return await fetch(new URL(`/v1${request.path}`, client.url), {
      method: request.method,
      headers: {
        authorization: `Bearer ${client.token}`,
        ...(request.content && { 'content-type': request.content.type }),
        ...(request.content?.encoding && { 'content-encoding': request.content.encoding }),
      },
      ...(request.content && { body: request.content.body() }),
      duplex: 'half',
      redirect: 'error',
      signal: request.signal,
    });
  } catch (error) {
    request.signal.throwIfAborted();
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
    const reason = cause instanceof AggregateError ? cause.errors[0] : cause;
    throw new ApiError(
      `${client.url} does not answer (${reason instanceof Error ? reason.message : reason}). Is the service running there?`,
      null,
      { cause: error },
    );
  }
}

async function explain(response: Response, request: ApiRequest): Promise<string> {
  const text = await response.text();
  const problem = parseProblem(text);
  const advice = new Map([
    [401, 'Give the operator token with --token, or in the variable ADMIN_TOKEN.'],
    [403, 'This token lacks the permission: use the operator token.'],
    [409, 'Another request is sending the same snapshot: wait until it has ended.'],
  ]).get(response.status);
  const what = `${request.method} /v1${request.path}: ${response.status} ${problem.code}`;
  return [what, problem.detail, advice]
    .filter(part => part !== undefined && part !== '')
    .join('. ');
}

function parseProblem(text: string): { code: string; detail: string } {
  try {
    const { code, detail, errors } = JSON.parse(text);
    const faults = Array.isArray(errors) ? ` ${JSON.stringify(errors.slice(0, 3))}` : '';
    return { code: String(code ?? ''), detail: `${detail ?? ''}${faults}`.replace(/\.$/, '') };
  } catch {
    return { code: '(not an answer of this service)', detail: text.slice(0, 200) };
  }
}
