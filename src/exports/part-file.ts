import { type FileHandle, open } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import type { Frame } from './frames.ts';

/**
 * How a part lies on disk: its frames, each behind a head of four numbers (length, plain length, CRC-32 of the plain form,
 * checksum), and an empty frame at the end. A file without that end is not whole. Each checksum goes on from the one
 * before, and the first from the file's name: also a frame that is whole itself is refused where it does not belong.
 */
const headBytes = 16;
const checksumAt = 12;

/** Nobody's frame is larger; a length beyond it is damage. */
const maxFrameBytes = 16 * 1024 * 1024;

/** What stands in the file is not what was written, or the file is gone. The part can be rendered again. */
export class PartLostError extends Error {
  override readonly name: string = 'PartLostError';
}

/** Heads for the frames of one file, in order. */
export function createFramer(fileName: string): { head(frame: Frame): Buffer; end(): Buffer } {
  let checksum = crc32(fileName);
  const head = ({ bytes, plainBytes, crc }: Frame): Buffer => {
    const written = Buffer.allocUnsafe(headBytes);
    written.writeUInt32LE(bytes.length, 0);
    written.writeUInt32LE(plainBytes, 4);
    written.writeUInt32LE(crc, 8);
    checksum = crc32(bytes, crc32(written.subarray(0, checksumAt), checksum));
    written.writeUInt32LE(checksum, checksumAt);
    return written;
  };
  return { head, end: () => head({ bytes: Buffer.alloc(0), plainBytes: 0, crc: 0 }) };
}

/**
 * The frames of a file, each checked before it is handed on.
 * @param fileName what the framer was given
 * @param grown for a file still being written: resolves when it has more than `bytes`, or is whole; else null
 * @throws PartLostError
 */
export async function* readFrames(
  file: FileHandle,
  fileName: string,
  grown: ((bytes: number) => Promise<void>) | null,
): AsyncGenerator<Frame> {
  const read = createReader(file);
  let checksum = crc32(fileName);
  let at = 0;
  for (;;) {
    await grown?.(at);
    const found = await read(at);
    const { bytes, plainBytes, crc } = found;
    checksum = crc32(bytes, crc32(found.head, checksum));
    if (checksum !== found.checksum) throw new PartLostError('A frame is damaged.');
    if (bytes.length === 0) return;
    at += headBytes + bytes.length;
    yield { bytes, plainBytes, crc };
  }
}

interface FoundFrame extends Frame {
  readonly head: Buffer;
  readonly checksum: number;
}

/** Of a plain frame all, of a deflated one most of the time. */
const firstReadBytes = headBytes + 256 * 1024;

/**
 * Reads one frame after the other into the same buffer, each with one call as long as they are of about one size. Every
 * failure to read is a loss: the database has it all.
 */
function createReader(file: FileHandle): (position: number) => Promise<FoundFrame> {
  let buffer = Buffer.allocUnsafeSlow(firstReadBytes);
  const fill = async (from: number, to: number, position: number): Promise<number> => {
    const { bytesRead } = await file
      .read(buffer, from, to - from, position + from)
      .catch((cause: unknown) => {
        throw new PartLostError('The file cannot be read.', { cause });
      });
    if (bytesRead === 0) throw new PartLostError('The file ends early.');
    return from + bytesRead;
  };

  return async position => {
    let filled = 0;
    while (filled < headBytes) filled = await fill(filled, buffer.length, position);
    const end = headBytes + buffer.readUInt32LE(0);
    if (end > maxFrameBytes) throw new PartLostError('A frame is damaged.');
    if (end > buffer.length) {
      const larger = Buffer.allocUnsafeSlow(Math.ceil(end * 1.1));
      buffer.copy(larger, 0, 0, filled);
      buffer = larger;
    }
    while (filled < end) filled = await fill(filled, end, position);
    return {
      head: buffer.subarray(0, checksumAt),
      plainBytes: buffer.readUInt32LE(4),
      crc: buffer.readUInt32LE(8),
      checksum: buffer.readUInt32LE(checksumAt),
      bytes: buffer.subarray(headBytes, end),
    };
  };
}

/** @returns null where there is no such file */
export async function openForReading(path: string): Promise<FileHandle | null> {
  try {
    return await open(path, 'r');
  } catch {
    return null;
  }
}
