import { type FileHandle, open } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import type { Block } from './blocks.ts';

/**
 * How a part lies on disk: its packed blocks, each behind a frame of three numbers (packed length, plain length, CRC-32
 * of both and of the packed bytes), and an empty frame at the end. A file without that end is not whole.
 */
const frameBytes = 12;

/** Nobody's block is larger; a length beyond it is damage. */
const maxPackedBytes = 16 * 1024 * 1024;

/** What stands in the file is not what was written, or the file is gone. The part can be rendered again. */
export class PartLostError extends Error {
  override readonly name = 'PartLostError';
}

export function encodeFrame(block: Block & { packed: Buffer }): Buffer {
  return Buffer.concat([frameFor(block.packed, block.plainBytes), block.packed]);
}

export const endFrame = frameFor(Buffer.alloc(0), 0);

function frameFor(packed: Buffer, plainBytes: number): Buffer {
  const frame = Buffer.alloc(frameBytes);
  frame.writeUInt32LE(packed.length, 0);
  frame.writeUInt32LE(plainBytes, 4);
  frame.writeUInt32LE(crc32(packed, crc32(frame.subarray(0, 8))), 8);
  return frame;
}

/**
 * The blocks of a file, each checked before it is handed on.
 * @param grown for a file still being written: resolves when it has more than `bytes`, or is whole; else null
 * @throws PartLostError
 */
export async function* readFrames(
  file: FileHandle,
  grown: ((bytes: number) => Promise<void>) | null,
): AsyncGenerator<Block> {
  let at = 0;
  for (;;) {
    await grown?.(at);
    const frame = await readExactly(file, at, frameBytes);
    const packedBytes = frame.readUInt32LE(0);
    const plainBytes = frame.readUInt32LE(4);
    if (packedBytes > maxPackedBytes) throw new PartLostError('A frame is damaged.');
    const packed = await readExactly(file, at + frameBytes, packedBytes);
    if (crc32(packed, crc32(frame.subarray(0, 8))) !== frame.readUInt32LE(8)) {
      throw new PartLostError('A block is damaged.');
    }
    if (packedBytes === 0) return;
    at += frameBytes + packedBytes;
    yield { plain: null, packed, plainBytes };
  }
}

async function readExactly(file: FileHandle, at: number, length: number): Promise<Buffer> {
  if (length === 0) return Buffer.alloc(0);
  const buffer = Buffer.allocUnsafe(length);
  const { bytesRead } = await file.read(buffer, 0, length, at);
  if (bytesRead !== length) throw new PartLostError('The file ends early.');
  return buffer;
}

/** @returns null where there is no such file */
export async function openForReading(path: string): Promise<FileHandle | null> {
  try {
    return await open(path, 'r');
  } catch {
    return null;
  }
}
