import type { IncomingMessage } from 'node:http';
import { pipeline, type Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { AppError } from '../../shared/errors.ts';
import { snapshotInvalid } from './snapshot-invalid.ts';

/** Some fifty million rows. A gzip bomb of valid rows would fill the database's disk. */
const maxUnpackedBytes = 16 * 1024 ** 3;

/**
 * The bytes of a CSV body, unpacked when its `Content-Encoding` is gzip.
 * @throws AppError `unsupported_media_type` for any other encoding; while it is read `payload_too_large`, and
 *   `snapshot_invalid` for a gzip stream that is broken
 */
export function readCsvBody(
  body: Readable,
  contentEncoding: string | undefined,
  limitBytes = maxUnpackedBytes,
): AsyncIterable<Buffer> {
  const encoding = (contentEncoding ?? 'identity').trim().toLowerCase();
  if (encoding === 'identity' || encoding === '') return limitSize(chunksOf(body), limitBytes);
  if (encoding !== 'gzip' && encoding !== 'x-gzip') {
    throw new AppError('unsupported_media_type', 'Content-Encoding may be gzip or absent.');
  }
  return limitSize(unpack(body), limitBytes);
}

async function* limitSize(body: AsyncIterable<Buffer>, limitBytes: number): AsyncGenerator<Buffer> {
  let bytes = 0;
  for await (const chunk of body) {
    bytes += chunk.length;
    if (bytes > limitBytes) {
      throw new AppError(
        'payload_too_large',
        `A snapshot may have at most ${limitBytes} bytes, unpacked.`,
      );
    }
    yield chunk;
  }
}

/** Reading may stop half-way, and the request must live on to carry the answer. */
function chunksOf(body: Readable): AsyncIterable<Buffer> {
  return body.iterator({ destroyOnReturn: false });
}

async function* unpack(body: Readable): AsyncGenerator<Buffer> {
  const gunzip = createGunzip();
  // Every failure comes out of the iteration below as well.
  pipeline(chunksOf(body), gunzip, () => {});
  try {
    yield* gunzip as AsyncIterable<Buffer>;
  } catch (error) {
    if (error instanceof Error && 'code' in error && /^Z_/.test(String(error.code))) {
      throw snapshotInvalid([{ row: 0, column: null, message: 'the gzip stream is broken' }]);
    }
    throw error;
  }
}

/** Passes chunks on and tells how long each is. */
export async function* countBytes(
  body: AsyncIterable<Buffer>,
  onBytes: (bytes: number) => void,
): AsyncGenerator<Buffer> {
  for await (const chunk of body) {
    onBytes(chunk.length);
    yield chunk;
  }
}

/** A record is looked at again with every piece that it goes on in, so a sender may not make them single bytes. */
const leastPieceBytes = 16 * 1024;

/** The same bytes in pieces that are not small, but for the last. */
export async function* joinSmall(body: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of body) {
    pieces.push(piece);
    bytes += piece.length;
    if (bytes < leastPieceBytes) continue;
    yield pieces.length === 1 ? piece : Buffer.concat(pieces);
    pieces = [];
    bytes = 0;
  }
  if (bytes > 0) yield Buffer.concat(pieces);
}

/** Aborts when the caller hangs up before the whole body has come. */
export function abortWhenCutOff(request: IncomingMessage, controller: AbortController): void {
  const abort = () => {
    if (!request.complete) controller.abort(new Error('The caller hung up.'));
  };
  if (request.destroyed) abort();
  else request.once('close', abort);
}
