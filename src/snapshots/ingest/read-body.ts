import type { IncomingMessage } from 'node:http';
import { pipeline, type Readable } from 'node:stream';
import { MIMEType } from 'node:util';
import { createGunzip } from 'node:zlib';
import { AppError, validationFailed } from '../../shared/errors.ts';
import { type ContentDigest, verifyDigests } from './content-digest.ts';
import { type RateOptions, requireRate } from './require-rate.ts';

/**
 * Limit of the decompressed body, about 50 million rows. Without it a gzip bomb of valid rows would
 * fill the disk of the database.
 */
const maxUnpackedBytes = 16 * 1024 ** 3;

const leastPieceBytes = 16 * 1024;
const maxPieceBytes = 64 * 1024;

export interface BodyOptions extends RateOptions {
  readonly contentEncoding: string | undefined;
  readonly digests: readonly ContentDigest[];
  /** Default: 16 GiB. */
  readonly maxBytes?: number;
  /** Receives the length of each decompressed chunk. */
  readonly onBytes?: (bytes: number) => void;
}

/**
 * Reads and decompresses a CSV body in pieces of at most 64 KiB. The first has at least 16 KiB,
 * unless the body is shorter.
 *
 * @throws AppError `unsupported_media_type` at once; while reading `payload_too_large`,
 * `validation_failed` for a broken gzip stream, `digest_mismatch` and `request_timeout`
 */
export function readCsvBody(body: Readable, options: BodyOptions): AsyncGenerator<Buffer> {
  const encoding = (options.contentEncoding ?? 'identity').trim().toLowerCase();
  const isGzip = encoding === 'gzip' || encoding === 'x-gzip';
  if (!isGzip && encoding !== 'identity' && encoding !== '')
    throw new AppError('unsupported_media_type', 'Content-Encoding may be gzip or absent.');
  // Reading may end early, but the request must stay open for the response.
  const chunks = body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>;
  const sent = verifyDigests(requireRate(chunks, options), options.digests);
  return inPieces(limitSize(isGzip ? unpack(sent) : sent, options));
}

/** @throws AppError `unsupported_media_type` for a charset other than UTF-8 */
export function requireUtf8(contentType: string | undefined): void {
  const charset = charsetOf(contentType ?? '');
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

async function* limitSize(
  body: AsyncIterable<Buffer>,
  { maxBytes = maxUnpackedBytes, onBytes }: BodyOptions,
): AsyncGenerator<Buffer> {
  let bytes = 0;
  for await (const chunk of body) {
    bytes += chunk.length;
    onBytes?.(chunk.length);
    if (bytes > maxBytes) {
      const detail = `A snapshot may have at most ${maxBytes} bytes after decompression.`;
      throw new AppError('payload_too_large', detail);
    }
    yield chunk;
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
    if (bytes < leastPieceBytes) continue;
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

/** Aborts if the caller closes the connection before the whole body was received. */
export function abortOnHangUp(request: IncomingMessage, controller: AbortController): void {
  const abort = () => {
    if (!request.complete) controller.abort(new Error('The caller closed the connection.'));
  };
  if (request.destroyed) abort();
  else request.once('close', abort);
}
