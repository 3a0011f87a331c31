import { combineCrcs } from '../shared/combine-crcs.ts';
import { headerLine } from '../snapshots/columns.ts';
import { deflateTextSync } from '../snapshots/render/chunks.ts';

/**
 * A file as one gzip member (RFC 1952) of sections that were deflated apart.
 * One member for each section would be simpler, but browsers read only the first, and a file cut between two members
 * would look complete.
 */

/** No name and no time, so that equal data gives equal bytes; unknown system. */
const memberHeader = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
const columnHeader = deflateTextSync(headerLine);
/** Chunks end on a byte but do not end the deflate stream. An empty last block does. */
const lastBlock = Buffer.from([3, 0]);
const trailerBytes = lastBlock.length + 8;

/** The bytes before the first section: the header of the member and the header line. */
export const gzipStart = Buffer.concat([memberHeader, columnHeader.deflated]);
/** Bytes of a gzip file beside its sections. */
export const gzipFrameBytes = gzipStart.length + trailerBytes;

/** Collects checksum and length of a member as its sections pass. */
export interface GzipTrailer {
  /** Adds the checksum and the length of the next plain bytes. */
  add(crc32: number, plainBytes: number): void;
  /** The bytes after the last section. */
  bytes(): Buffer;
}

export function createGzipTrailer(): GzipTrailer {
  let crc = columnHeader.plainCrc32;
  let plainBytes = columnHeader.plainBytes;
  return {
    add(nextCrc, nextBytes) {
      crc = combineCrcs(crc, nextCrc, nextBytes);
      plainBytes += nextBytes;
    },
    bytes() {
      const totals = Buffer.alloc(8);
      totals.writeUInt32LE(crc, 0);
      totals.writeUInt32LE(plainBytes % 2 ** 32, 4);
      return Buffer.concat([lastBlock, totals]);
    },
  };
}
