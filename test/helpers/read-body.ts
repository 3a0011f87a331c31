import type http from 'node:http';
import { text } from 'node:stream/consumers';

/**
 * Reads the body of a request. Returns null if the client aborts the request. An error in a
 * listener would end the test process without naming the test.
 */
export async function readBody(request: http.IncomingMessage): Promise<string | null> {
  return await text(request).catch(() => null);
}
