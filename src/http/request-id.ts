import type { IncomingHttpHeaders } from 'node:http';

/**
 * Returns the id that the caller sent in `X-Request-Id`; null if it is absent or unsafe to log. The
 * service identifies requests by its own id, because callers can repeat theirs.
 */
export function callerRequestId(headers: IncomingHttpHeaders): string | null {
  const header = headers['x-request-id'];
  return typeof header === 'string' && /^[\w.:-]{1,64}$/.test(header) ? header : null;
}
