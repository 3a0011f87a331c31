import { combineCrcs } from '../shared/combine-crcs.ts';
import { headerLine } from '../snapshots/columns.ts';
import { deflateTextSync } from '../snapshots/render/chunks.ts';

/**
 * Joins separately deflated sections to one gzip member (RFC 1952). One member for each section
 * would be simpler, but browsers read only the first. A file that is cut between two members would
 * also look complete.
 */

/**
 * Header without name and time and with an unknown system, so that equal data gives equal bytes.
 */
const memberHeader = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
const columnHeader = deflateTextSync(headerLine);
/** Empty final block. Chunks end at a byte boundary but do not end the deflate stream. */
const lastBlock = Buffer.from([3, 0]);
const trailerBytes = lastBlock.length + 8;

/** Bytes before the first section: the header of the member and the header line. */
export const gzipStart = Buffer.concat([memberHeader, columnHeader.deflated]);
/** Number of bytes of a gzip file without its sections. */
export const gzipFrameBytes = gzipStart.length + trailerBytes;

export type GzipTrailer = ReturnType<typeof createGzipTrailer>;

/** Collects the checksum and the length of a member while its sections are sent. */
export function createGzipTrailer() {
  let crc = columnHeader.plainCrc32;
  let plainBytes = columnHeader.plainBytes;
  return {
    /** Adds the checksum and the length of the next plain bytes. */
    add(nextCrc: number, nextBytes: number): void {
      crc = combineCrcs(crc, nextCrc, nextBytes);
      plainBytes += nextBytes;
    },
    /** Returns the bytes after the last section. */
    bytes(): Buffer {
      const totals = Buffer.alloc(8);
      totals.writeUInt32LE(crc, 0);
      totals.writeUInt32LE(plainBytes % 2 ** 32, 4);
      return Buffer.concat([lastBlock, totals]);
    },
  };
}
