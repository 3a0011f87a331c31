import { promisify } from 'node:util';
import { constants, crc32, deflateRaw, inflateRaw } from 'node:zlib';
import { gzipStream } from './gzip-stream.ts';

/**
 * A piece of a file that can be packed and unpacked alone; a packed file is put together from packed blocks. At least one
 * of the two forms is there.
 */
export interface Block {
  readonly plain: Buffer | null;
  /** The CRC-32 of the plain form, 4 bytes, and behind it raw deflate, flushed to a byte and not final. */
  readonly packed: Buffer | null;
  /** The length of the plain form. */
  readonly plainBytes: number;
}

/** Large enough to pack well, small enough that a few in flight cost nothing. */
const blockBytes = 256 * 1024;

/**
 * About 200 MB a second and core. Window and tables of half the usual size cost nothing in what is left of rows, and
 * every block takes them anew; like the room for the result they count toward garbage collection.
 */
export const packing = {
  level: constants.Z_BEST_SPEED,
  windowBits: 14,
  memLevel: 7,
  chunkSize: 64 * 1024,
  finishFlush: constants.Z_SYNC_FLUSH,
} as const;

/** Room for a whole block and a little: with less, zlib comes back for more, which halves the speed. */
const unpackedRoom = blockBytes + 1024;

/** How many blocks are packed or unpacked at once, ahead of the reader. */
const ahead = 3;

const crcBytes = 4;

const deflate = promisify(deflateRaw);
const inflate = promisify(inflateRaw);

/** The same bytes for the same plain form, always: the level is fixed. */
export async function pack(block: Block): Promise<Block & { packed: Buffer }> {
  if (block.packed !== null) return { ...block, packed: block.packed };
  const plain = block.plain ?? Buffer.alloc(0);
  const deflated = await deflate(plain, packing);
  const packed = Buffer.allocUnsafe(crcBytes + deflated.length);
  packed.writeUInt32LE(crc32(plain), 0);
  deflated.copy(packed, crcBytes);
  return { ...block, packed };
}

async function unpack({ plain, packed, plainBytes }: Block): Promise<Buffer> {
  if (plain !== null || packed === null) return plain ?? Buffer.alloc(0);
  return await inflate(packed.subarray(crcBytes), {
    finishFlush: constants.Z_SYNC_FLUSH,
    windowBits: packing.windowBits,
    chunkSize: unpackedRoom,
    maxOutputLength: plainBytes,
  });
}

export type Compression = 'none' | 'gzip';

/** The bytes of a file in the form that the reader wants. */
export function bytesOf(blocks: AsyncIterable<Block>, compression: Compression): AsyncGenerator<Buffer> {
  if (compression === 'none') return mapAhead(blocks, unpack);
  return gzipStream(
    mapAhead(blocks, async block => {
      const { packed, plainBytes } = await pack(block);
      return { deflated: packed.subarray(crcBytes), crc: packed.readUInt32LE(0), plainBytes };
    }),
  );
}

/**
 * Cuts a stream of chunks into blocks of one size, wherever the chunks' bounds are, so that packing gives the same bytes
 * every time.
 */
export async function* cutBlocks(chunks: AsyncIterable<Buffer>): AsyncGenerator<Block> {
  let pieces: Buffer[] = [];
  let length = 0;
  for await (const chunk of chunks) {
    let rest = chunk;
    while (length + rest.length >= blockBytes) {
      pieces.push(rest.subarray(0, blockBytes - length));
      yield plainBlock(Buffer.concat(pieces, blockBytes));
      rest = rest.subarray(blockBytes - length);
      pieces = [];
      length = 0;
    }
    if (rest.length > 0) pieces.push(rest);
    length += rest.length;
  }
  if (length > 0) yield plainBlock(Buffer.concat(pieces, length));
}

export function plainBlock(plain: Buffer): Block {
  return { plain, packed: null, plainBytes: plain.length };
}

/** Maps in order, a few items ahead of the reader. Ends the source when the reader stops early. */
export async function* mapAhead<T, R>(
  source: AsyncIterable<T>,
  map: (item: T) => Promise<R>,
): AsyncGenerator<R> {
  const iterator = source[Symbol.asyncIterator]();
  const pending: Promise<R>[] = [];
  let isDone = false;
  try {
    while (!isDone || pending.length > 0) {
      while (!isDone && pending.length < ahead) {
        const next = await iterator.next();
        if (next.done === true) isDone = true;
        else pending.push(quiet(map(next.value)));
      }
      const first = pending.shift();
      if (first !== undefined) yield await first;
    }
  } finally {
    await iterator.return?.();
  }
}

/** A failure is seen when its turn comes; until then it must not count as unhandled. */
function quiet<R>(promise: Promise<R>): Promise<R> {
  promise.catch(() => {});
  return promise;
}
