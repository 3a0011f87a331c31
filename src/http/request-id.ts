import type { IncomingHttpHeaders } from 'node:http';

/** An API key or the secret of one, sent in the wrong header. */
const looksLikeToken = /^(?:whx_|[0-9a-f]{64}$)/i;

/**
 * Returns the id that the caller sent in `X-Request-Id`; null if it is absent or unsafe to log. The
 * service identifies requests by its own id, because callers can repeat theirs.
 */
export function callerRequestId(headers: IncomingHttpHeaders): string | null {
  const header = headers['x-request-id'];
  if (typeof header !== 'string' || !/^[\w.:-]{1,64}$/.test(header)) return null;
  return looksLikeToken.test(header) ? null : header;
}
