import { promisify } from 'node:util';
import { constants, crc32, deflateRaw, inflateRaw } from 'node:zlib';

/** How bytes of a file are kept and sent. A gzip file is put together from deflated frames (`gzip-stream.ts`). */
export type Form = 'plain' | 'deflated';

/** A piece of a part. A part is cut into frames alike every time, so one that breaks off goes on where it was. */
export interface Frame {
  /** In the frame's form; deflated without header, flushed to a byte and not final. Lent until the next frame is asked for. */
  readonly bytes: Buffer;
  /** The length of the plain form. */
  readonly plainBytes: number;
  /** CRC-32 of the plain form; of plain frames, which need none, 0. */
  readonly crc: number;
}

/** Large enough that a frame costs little beside its bytes, small enough that a few in flight cost nothing. */
const plainFrameBytes = 256 * 1024;
/** Ten times smaller when packed. */
const deflatedFrameBytes = 1024 * 1024;

/**
 * About 200 MB a second and core. Window and tables of half the usual size cost nothing in what is left of rows; like the
 * room for the result they count toward garbage collection.
 */
const packing = {
  level: constants.Z_BEST_SPEED,
  windowBits: 14,
  memLevel: 7,
  chunkSize: 128 * 1024,
  finishFlush: constants.Z_SYNC_FLUSH,
} as const;

/** All that a part's frames depend on besides its rows. */
export const cutting = {
  plainFrameBytes,
  deflatedFrameBytes,
  packing,
  zlib: process.versions['zlib'],
};

const deflate = promisify(deflateRaw);
const inflate = promisify(inflateRaw);

/** Cuts plain bytes into frames of a form, wherever the chunks' bounds are. */
export function framesOf(chunks: AsyncIterable<Buffer>, form: Form): AsyncGenerator<Frame> {
  return form === 'plain' ? plainFrames(chunks) : deflatedFrames(chunks);
}

async function* plainFrames(chunks: AsyncIterable<Buffer>): AsyncGenerator<Frame> {
  for await (const bytes of recut(chunks, plainFrameBytes))
    yield { bytes, plainBytes: bytes.length, crc: 0 };
}

async function* deflatedFrames(chunks: AsyncIterable<Buffer>): AsyncGenerator<Frame> {
  for await (const plain of recut(chunks, deflatedFrameBytes)) {
    yield { bytes: await deflate(plain, packing), plainBytes: plain.length, crc: crc32(plain) };
  }
}

/** The plain bytes of frames of a form. Lent like theirs. */
export async function* plainBytesOf(
  frames: AsyncIterable<Frame>,
  form: Form,
): AsyncGenerator<Buffer> {
  for await (const frame of frames)
    yield form === 'plain' ? frame.bytes : await inflateFrame(frame);
}

async function inflateFrame({ bytes, plainBytes }: Frame): Promise<Buffer> {
  return await inflate(bytes, {
    finishFlush: constants.Z_SYNC_FLUSH,
    windowBits: packing.windowBits,
    // Room for all of it and a little: with less, zlib comes back for more.
    chunkSize: plainBytes + 1024,
    maxOutputLength: plainBytes,
  });
}

/**
 * The same bytes in pieces of one size, but for the last. All pieces are written into one buffer, each lent until the next
 * is asked for: a buffer for each would keep V8 busy with collecting them.
 */
async function* recut(chunks: AsyncIterable<Buffer>, pieceBytes: number): AsyncGenerator<Buffer> {
  const piece = Buffer.allocUnsafeSlow(pieceBytes);
  let filled = 0;
  for await (const chunk of chunks) {
    for (let taken = 0; taken < chunk.length; ) {
      const copied = chunk.copy(piece, filled, taken);
      taken += copied;
      filled += copied;
      if (filled < pieceBytes) continue;
      yield piece;
      filled = 0;
    }
  }
  if (filled > 0) yield piece.subarray(0, filled);
}
