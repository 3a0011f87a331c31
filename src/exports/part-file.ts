import { type FileHandle, open } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import type { Block } from './blocks.ts';

/**
 * How a part lies on disk: its packed blocks, each behind a frame of three numbers (packed length, plain length, CRC-32),
 * and an empty frame at the end. A file without that end is not whole. Each checksum goes on from the one before, and
 * the first from the file's name: also a block that is whole itself is refused where it does not belong.
 */
const frameBytes = 12;

/** Nobody's block is larger; a length beyond it is damage. */
const maxPackedBytes = 16 * 1024 * 1024;

/** What stands in the file is not what was written, or the file is gone. The part can be rendered again. */
export class PartLostError extends Error {
  override readonly name: string = 'PartLostError';
}

/** Frames the blocks of one file, in order. */
export function createFramer(fileName: string): { frame(block: PackedBlock): Buffer; end(): Buffer } {
  let checksum = crc32(fileName);
  const frame = ({ packed, plainBytes }: PackedBlock): Buffer => {
    const framed = Buffer.allocUnsafe(frameBytes + packed.length);
    framed.writeUInt32LE(packed.length, 0);
    framed.writeUInt32LE(plainBytes, 4);
    checksum = crc32(packed, crc32(framed.subarray(0, 8), checksum));
    framed.writeUInt32LE(checksum, 8);
    packed.copy(framed, frameBytes);
    return framed;
  };
  return { frame, end: () => frame({ packed: Buffer.alloc(0), plainBytes: 0 }) };
}

type PackedBlock = Pick<Block, 'plainBytes'> & { readonly packed: Buffer };

/**
 * The blocks of a file, each checked before it is handed on.
 * @param fileName what the framer was given
 * @param grown for a file still being written: resolves when it has more than `bytes`, or is whole; else null
 * @throws PartLostError
 */
export async function* readFrames(
  file: FileHandle,
  fileName: string,
  grown: ((bytes: number) => Promise<void>) | null,
): AsyncGenerator<Block> {
  const take = createReader(file);
  let checksum = crc32(fileName);
  let at = 0;
  for (;;) {
    await grown?.(at);
    const frame = await take(frameBytes);
    const packedBytes = frame.readUInt32LE(0);
    const plainBytes = frame.readUInt32LE(4);
    if (packedBytes > maxPackedBytes) throw new PartLostError('A frame is damaged.');
    const packed = await take(packedBytes);
    checksum = crc32(packed, crc32(frame.subarray(0, 8), checksum));
    if (checksum !== frame.readUInt32LE(8)) throw new PartLostError('A block is damaged.');
    if (packedBytes === 0) return;
    at += frameBytes + packedBytes;
    yield { plain: null, packed, plainBytes };
  }
}

/** A packed block is small: reading each by itself would take longer than sending it. */
const readBytes = 256 * 1024;

/** Takes bytes from the start on. Every failure to read is a loss: the database has it all. */
function createReader(file: FileHandle): (length: number) => Promise<Buffer> {
  let ahead = Buffer.alloc(0);
  let position = 0;
  return async length => {
    while (ahead.length < length) {
      const buffer = Buffer.allocUnsafe(Math.max(readBytes, length));
      ahead.copy(buffer);
      const room = buffer.length - ahead.length;
      const { bytesRead } = await file.read(buffer, ahead.length, room, position).catch((cause: unknown) => {
        throw new PartLostError('The file cannot be read.', { cause });
      });
      if (bytesRead === 0) throw new PartLostError('The file ends early.');
      position += bytesRead;
      ahead = buffer.subarray(0, ahead.length + bytesRead);
    }
    const taken = ahead.subarray(0, length);
    ahead = ahead.subarray(length);
    return taken;
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
