import { isIPv6 } from 'node:net';
import type { FastifyRequest } from 'fastify';
import { AppError } from '../shared/errors.ts';

const hostShape = /^(?:[\w.-]+|\[(?<ipv6>[\da-f:.]+)\])(?::(?<port>\d{0,5}))?$/i;

const maxPort = 65_535;

/**
 * Requires exactly one Host header that names a host (RFC 9112, section 3.2), because links are
 * built from it. With several, a proxy and the service could use different ones.
 * @throws AppError `validation_failed`
 */
export function validateHostHeader(request: FastifyRequest): void {
  const { host } = request.headers;
  const isPresent = host === undefined ? request.raw.httpVersion === '1.0' : isHost(host);
  // `request.host` may come from a trusted proxy.
  if (isPresent && isHost(request.host) && hasAtMostOneHost(request.raw.rawHeaders)) return;
  throw new AppError(
    'validation_failed',
    'The request needs exactly one Host header, and it must name a host.',
    { members: { errors: [] } },
  );
}

/** Returns true for a host with or without a port, and for the empty value. */
function isHost(value: string): boolean {
  if (value === '') return true;
  const groups = hostShape.exec(value)?.groups;
  if (groups === undefined) return false;
  const { ipv6, port } = groups;
  return (ipv6 === undefined || isIPv6(ipv6)) && Number(port ?? 0) <= maxPort;
}

/** Node keeps the first of several Host headers and drops the others. */
function hasAtMostOneHost(rawHeaders: readonly string[]): boolean {
  let count = 0;
  for (let index = 0; index < rawHeaders.length; index += 2) {
    if (rawHeaders[index]?.toLowerCase() === 'host') count += 1;
  }
  return count <= 1;
}
