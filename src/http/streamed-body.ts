import type { IncomingMessage } from 'node:http';
import { pipeline } from 'node:stream';
import { MIMEType } from 'node:util';
import { createGunzip } from 'node:zlib';
import { Type } from '@fastify/type-provider-typebox';
import { AppError, validationFailed } from '../shared/errors.ts';
import { parseContentDigest, verifyDigests } from './content-digest.ts';
import { requireRate } from './require-rate.ts';

const minPieceBytes = 16 * 1024;
const maxPieceBytes = 64 * 1024;

/** Schema of the request headers that describe a streamed body. */
export const streamedBodyHeaders = Type.Object({
  'content-encoding': Type.Optional(
    Type.String({ description: '`gzip` or `identity` (default).', examples: ['gzip'] }),
  ),
  'content-digest': Type.Optional(
    Type.String({
      description:
        'Digest of the body as sent, RFC 9530. `sha-256` and `sha-512` are verified, others ignored.',
      examples: ['sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:'],
    }),
  ),
});

export interface StreamedBodyOptions {
  /** Minimum rate of the sender, averaged over `averageMs` milliseconds. */
  readonly minBytesPerSecond: number;
  readonly averageMs: number;
  /** Longest time until `close`, in milliseconds. */
  readonly maxMs: number;
  /** Maximum size after decompression. */
  readonly maxBytes: number;
  /** Subjects of the messages about these limits. */
  readonly names: { readonly request: string; readonly body: string };
}

export interface StreamedBody {
  /** Decompressed pieces of at most 64 KiB. The first has at least 16 KiB, if there are as many. */
  readonly pieces: AsyncIterable<Buffer>;
  /** Aborts when the sender closes the connection, when the time is over, and on `close`. */
  readonly signal: AbortSignal;
  /** Number of decompressed bytes so far. */
  readonly bytes: number;
  /** Ends every wait for the body. */
  close(): void;
}

/**
 * Opens a text body as its headers describe it: decompresses it and verifies its digests.
 *
 * @throws AppError at once for unsupported headers; while reading `payload_too_large`,
 * `validation_failed` for a broken gzip stream, `digest_mismatch` and `request_timeout`
 */
export function openStreamedBody(
  request: IncomingMessage,
  { maxMs, maxBytes, names, ...rate }: StreamedBodyOptions,
): StreamedBody {
  const { headers } = request;
  requireUtf8(headers['content-type'] ?? '');
  const isGzip = isGzipEncoding(headers['content-encoding'] ?? '');
  const digests = parseContentDigest(headers['content-digest']?.toString());
  const controller = new AbortController();
  const { signal } = controller;
  const onClose = () => {
    if (!request.complete) controller.abort(new Error('The caller closed the connection.'));
  };
  if (request.destroyed) onClose();
  else request.once('close', onClose);
  const timer = setTimeout(() => {
    const detail = `${names.request} may take ${maxMs / 1000} s.`;
    controller.abort(new AppError('request_timeout', detail));
  }, maxMs);
  let bytes = 0;

  async function* limited(body: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of body) {
      bytes += chunk.length;
      if (bytes > maxBytes) {
        const detail = `${names.body} may have at most ${maxBytes} bytes after decompression.`;
        throw new AppError('payload_too_large', detail);
      }
      yield chunk;
    }
  }

  // Reading may end early, but the request must stay open for the response.
  const chunks = request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>;
  const sent = verifyDigests(requireRate(chunks, { ...rate, signal }), digests);
  return {
    pieces: inPieces(limited(isGzip ? unpack(sent) : sent)),
    signal,
    get bytes() {
      return bytes;
    },
    close() {
      clearTimeout(timer);
      controller.abort();
    },
  };
}

/** @throws AppError `unsupported_media_type` for another encoding than gzip */
function isGzipEncoding(contentEncoding: string): boolean {
  const encoding = contentEncoding.trim().toLowerCase();
  if (encoding === 'gzip' || encoding === 'x-gzip') return true;
  if (encoding === 'identity' || encoding === '') return false;
  throw new AppError('unsupported_media_type', 'Content-Encoding may be gzip or absent.');
}

/** @throws AppError `unsupported_media_type` for a charset other than UTF-8 */
function requireUtf8(contentType: string): void {
  const charset = charsetOf(contentType);
  if (charset === null || ['utf-8', 'utf8', 'us-ascii'].includes(charset.toLowerCase())) return;
  throw new AppError('unsupported_media_type', 'The charset may be utf-8 or absent.');
}

function charsetOf(contentType: string): string | null {
  try {
    return new MIMEType(contentType).params.get('charset');
  } catch {
    throw new AppError('unsupported_media_type', 'The Content-Type is malformed.');
  }
}

/** Decompresses all members of a gzip stream. */
async function* unpack(body: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const gunzip = createGunzip({ chunkSize: maxPieceBytes });
  let sentBytes = 0;
  let hasEnded = false;
  async function* counted() {
    for await (const chunk of body) {
      sentBytes += chunk.length;
      yield chunk;
    }
    hasEnded = true;
  }
  // The iteration below reports every error.
  pipeline(counted, gunzip, () => {});
  try {
    yield* gunzip as AsyncIterable<Buffer>;
  } catch (error) {
    if (error instanceof Error && 'code' in error && /^Z_/.test(String(error.code)))
      throw brokenGzip('is damaged or incomplete');
    throw error;
  } finally {
    gunzip.destroy();
  }
  if (sentBytes === 0) throw brokenGzip('is empty');
  // The decompressor ignores everything after a byte that does not start another member.
  if (!hasEnded || gunzip.bytesWritten !== sentBytes) throw brokenGzip('has bytes after its end');
}

function brokenGzip(what: string): AppError {
  return validationFailed([{ path: '', message: `is a gzip stream that ${what}` }]);
}

/** Joins small chunks and cuts large ones, so that each piece takes about a millisecond. */
async function* inPieces(body: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of body) {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes < minPieceBytes) continue;
    yield* cut(chunks);
    chunks = [];
    bytes = 0;
  }
  if (bytes > 0) yield* cut(chunks);
}

function* cut(chunks: readonly Buffer[]): Generator<Buffer> {
  const [first] = chunks;
  const bytes = chunks.length === 1 && first !== undefined ? first : Buffer.concat(chunks);
  for (let at = 0; at < bytes.length; at += maxPieceBytes)
    yield bytes.subarray(at, at + maxPieceBytes);
}
