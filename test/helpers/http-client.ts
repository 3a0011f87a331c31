import http from 'node:http';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

/** An answer as it came over the socket. It is neither decompressed nor redirected. */
export interface Answer {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: Buffer;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into bodies whose shape is what they test
  readonly json: any;
}

export interface Ask {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Buffer | Readable | undefined;
  readonly agent?: http.Agent;
  readonly signal?: AbortSignal;
}

/**
 * Sends one request over a new socket, or over one of the given agent.
 *
 * @throws if the connection breaks
 */
export async function ask(url: string, { body, ...options }: Ask = {}): Promise<Answer> {
  const response = await open(url, { body, ...options });
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk);
  const bytes = Buffer.concat(chunks);
  const text = bytes.toString();
  return {
    status: response.statusCode ?? 0,
    headers: response.headers,
    body: bytes,
    text,
    get json() {
      return JSON.parse(text);
    },
  };
}

/**
 * Sends a request and returns after the headers. The caller reads the body, at any speed or never.
 */
export async function open(
  url: string,
  { body, ...options }: Ask = {},
): Promise<http.IncomingMessage> {
  const request = http.request(url, { agent: false, ...options });
  const answered = new Promise<http.IncomingMessage>((resolve, reject) => {
    request.once('response', resolve);
    request.once('error', reject);
  });
  // Without a listener, an error after the answer would end the process.
  request.on('error', () => {});
  if (body === undefined || typeof body === 'string' || Buffer.isBuffer(body)) {
    request.end(body);
  } else {
    // The answer may come before the end of the body. The rest of the body may then fail.
    pipeline(body, request).catch(() => {});
  }
  return await answered;
}
