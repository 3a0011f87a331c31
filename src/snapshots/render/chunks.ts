import { availableParallelism } from 'node:os';
import { promisify } from 'node:util';
import { constants, crc32, deflateRaw, deflateRawSync, inflateRaw } from 'node:zlib';
import pLimit from 'p-limit';
import { mapAhead } from '../../shared/map-ahead.ts';
import { cutRecords } from './records.ts';

/** Chunk of a rendered snapshot: whole records as raw deflate data. */
export interface Chunk {
  readonly plainBytes: number;
  /**
   * Deflate data. It ends with a sync flush and has no final block, so chunks can be joined to one
   * deflate stream.
   */
  readonly deflated: Buffer;
}

/** New chunk, with the CRC-32 of its plain bytes. */
export interface FreshChunk extends Chunk {
  readonly plainCrc32: number;
}

/**
 * Minimum plain size of a chunk in bytes. Larger chunks compress no better (0.1 % less at 1 MiB),
 * and a stalled reader holds two of them.
 */
const minPlainBytes = 512 * 1024;

/**
 * Level 5 takes twice the CPU time of level 1: 60 instead of 125 MB of CSV per second and core. Its
 * result is a fifth smaller. Each snapshot is deflated once, so the size matters more. Inflating
 * takes the same time.
 */
const deflateOptions = { level: 5, finishFlush: constants.Z_SYNC_FLUSH } as const;

/**
 * Identifies everything except the rows that determines the bytes of a chunk. Change it with any of
 * them.
 */
export const renderer = `1 zlib ${process.versions['zlib']}`;

const deflate = promisify(deflateRaw);
const inflate = promisify(inflateRaw);
/**
 * Limits the chunks inflated at once to the number of cores. More threads are no faster and would
 * take CPU time from other requests.
 */
const limitInflates = pLimit(availableParallelism());

/** Returns the checksum of a chunk. It covers the position of the chunk and its bytes. */
export function chunkChecksum(version: string, index: number, deflated: Buffer): number {
  return crc32(deflated, crc32(`${version} ${index}`));
}

/** Cuts CSV records into chunks. One chunk is deflated while the next is collected. */
export function makeChunks(rows: AsyncIterable<Buffer>): AsyncGenerator<FreshChunk> {
  return mapAhead(cutRecords(rows, minPlainBytes), 1, deflateChunk);
}

/** Deflates whole records in the thread pool. */
export async function deflateChunk(plain: Buffer): Promise<FreshChunk> {
  const deflated = await deflate(plain, deflateOptions);
  return { plainBytes: plain.length, plainCrc32: crc32(plain), deflated };
}

/** Deflates a short text synchronously. */
export function deflateTextSync(text: string): FreshChunk {
  const plain = Buffer.from(text);
  const deflated = deflateRawSync(plain, deflateOptions);
  return { plainBytes: plain.length, plainCrc32: crc32(plain), deflated };
}

/**
 * Inflates a chunk in the thread pool.
 * @throws Error if the data is invalid or has another length than the chunk states
 */
export async function inflateChunk({ plainBytes, deflated }: Chunk): Promise<Buffer> {
  const options = {
    finishFlush: constants.Z_SYNC_FLUSH,
    // A little more than needed, because otherwise zlib allocates a second buffer.
    chunkSize: plainBytes + 64,
    maxOutputLength: plainBytes,
  };
  const plain = await limitInflates(() => inflate(deflated, options));
  if (plain.length !== plainBytes) {
    throw new Error(`Damaged chunk: expected ${plainBytes} plain bytes, found ${plain.length}.`);
  }
  return plain;
}
