import { type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import type { Frame } from './frames.ts';
import type { GrowingPart } from './growing-part.ts';
import { createFramer } from './part-file.ts';
import type { PartRoom } from './part-room.ts';

interface KeepOptions {
  /** Where the frames are written; its `path` becomes `target` once it is whole. */
  readonly part: GrowingPart;
  readonly target: string;
  readonly room: PartRoom;
  /** Hears of trouble with the disk, which the reader does not. */
  readonly onError: (error: unknown) => void;
  /** Called once, when nothing more will be written. */
  readonly onSettled: (part: GrowingPart) => void;
}

/** Passes frames on and writes each to disk before; who reads along never waits for a frame that was passed on already. */
export async function* keepFrames(
  frames: AsyncIterable<Frame>,
  { part, target, room, onError, onSettled }: KeepOptions,
): AsyncGenerator<Frame> {
  const settle = (state: 'whole' | 'given up') => {
    part.settle(state);
    onSettled(part);
  };
  const giveUp = (error: unknown) => {
    onError(error);
    settle('given up');
  };
  const handle = await createFile(part.path).catch(giveUp);
  const append = async (...pieces: Buffer[]) => {
    if (!handle || part.state !== 'growing') return;
    const bytes = pieces.reduce((sum, piece) => sum + piece.length, 0);
    try {
      await room.fill(bytes, () => writeAll(handle, pieces, bytes));
      part.grow(bytes);
    } catch (error) {
      giveUp(error);
    }
  };

  const framer = createFramer(path.basename(target));
  let isWhole = false;
  try {
    for await (const frame of frames) {
      await append(framer.head(frame), frame.bytes);
      part.hold();
      yield frame;
      part.resume();
    }
    await append(framer.end());
    isWhole = part.state === 'growing';
  } finally {
    try {
      await handle?.close();
      if (isWhole) await rename(part.path, target);
      else if (handle) await rm(part.path, { force: true });
    } catch (error) {
      isWhole = false;
      onError(error);
    }
    settle(isWhole ? 'whole' : 'given up');
  }
}

async function writeAll(handle: FileHandle, pieces: Buffer[], bytes: number): Promise<void> {
  const { bytesWritten } = await handle.writev(pieces);
  if (bytesWritten !== bytes)
    throw new Error(`Only ${bytesWritten} of ${bytes} bytes could be written.`);
}

/** The directory may have been removed since the start. */
async function createFile(file: string): Promise<FileHandle> {
  try {
    return await open(file, 'wx', 0o600);
  } catch {
    await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
    return await open(file, 'wx', 0o600);
  }
}
