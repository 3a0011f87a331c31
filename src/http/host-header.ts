import type { FastifyRequest } from 'fastify';
import { AppError } from '../shared/errors.ts';

const hostShape = /^(?:[\w.-]+|\[[\da-f:.]+\])?(?::\d{0,5})?$/i;

/**
 * Requires exactly one Host header that names a host (RFC 9112, section 3.2), because links are
 * built from it. With several, a proxy and the service could use different ones.
 * @throws AppError `validation_failed`
 */
export function validateHostHeader(request: FastifyRequest): void {
  const { host } = request.headers;
  const isHost = host === undefined ? request.raw.httpVersion === '1.0' : hostShape.test(host);
  // `request.host` may come from a trusted proxy.
  if (isHost && hostShape.test(request.host) && hasAtMostOneHost(request.raw.rawHeaders)) return;
  throw new AppError(
    'validation_failed',
    'The request needs exactly one Host header, and it must name a host.',
    { members: { errors: [] } },
  );
}

/** Node keeps the first of several Host headers and drops the others. */
function hasAtMostOneHost(rawHeaders: readonly string[]): boolean {
  let count = 0;
  for (let index = 0; index < rawHeaders.length; index += 2) {
    if (rawHeaders[index]?.toLowerCase() === 'host') count += 1;
  }
  return count <= 1;
}
