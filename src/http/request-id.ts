import type { IncomingHttpHeaders } from 'node:http';

/**
 * Returns the caller's own id of a request, from `X-Request-Id`; null if there is none or if it could
 * do harm in a log. The service identifies requests by an id of its own: callers can repeat theirs.
 */
export function callerRequestId(headers: IncomingHttpHeaders): string | null {
  const header = headers['x-request-id'];
  return typeof header === 'string' && /^[\w.:-]{1,64}$/.test(header) ? header : null;
}
