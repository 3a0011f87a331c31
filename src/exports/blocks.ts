import { promisify } from 'node:util';
import { constants, gunzip, gzip } from 'node:zlib';

/**
 * A piece of a file that can be packed and unpacked alone: gzip members can be put one after the other, and so a packed
 * file is the packed blocks in order. At least one of the two forms is there.
 */
export interface Block {
  readonly plain: Buffer | null;
  /** One gzip member. */
  readonly packed: Buffer | null;
  /** The length of the plain form. */
  readonly plainBytes: number;
}

/** Large enough to pack well, small enough that a few in flight cost nothing. */
const blockBytes = 256 * 1024;

/** Room for a whole block and a little: with less, zlib comes back for more, which halves the speed. */
const chunkSize = blockBytes + 1024;

/** How many blocks are packed or unpacked at once, ahead of the reader. */
const ahead = 3;

const gzipBlock = promisify(gzip);
const gunzipBlock = promisify(gunzip);

/** The same bytes for the same plain form, always: zlib writes no time into the header, and the level is fixed. */
export async function pack(block: Block): Promise<Block & { packed: Buffer }> {
  if (block.packed !== null) return { ...block, packed: block.packed };
  const packed = await gzipBlock(block.plain ?? Buffer.alloc(0), {
    level: constants.Z_BEST_SPEED,
    chunkSize,
  });
  return { ...block, packed };
}

async function plainBytes(block: Block): Promise<Buffer> {
  return (
    block.plain ??
    (await gunzipBlock(block.packed ?? Buffer.alloc(0), { chunkSize, maxOutputLength: block.plainBytes }))
  );
}

export type Compression = 'none' | 'gzip';

/** The bytes of a file in the form that the reader wants. */
export function bytesOf(blocks: AsyncIterable<Block>, compression: Compression): AsyncGenerator<Buffer> {
  return mapAhead(blocks, compression === 'gzip' ? async block => (await pack(block)).packed : plainBytes);
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
