import { createHash, randomUUID } from 'node:crypto';
import { chmodSync, mkdirSync } from 'node:fs';
import { type FileHandle, mkdir, open, rename, rm, stat, utimes } from 'node:fs/promises';
import path from 'node:path';
import { ConfigError } from '../config.ts';
import type { PartStoreEvent } from '../metrics.ts';
import { type Block, mapAhead, pack, packing } from './blocks.ts';
import type { ExportPart } from './find-parts.ts';
import { createGrowingPart, type GrowingPart, HeldUpError } from './growing-part.ts';
import { createFramer, openForReading, PartLostError, readFrames } from './part-file.ts';
import { createPartRoom, partExtension, unfinishedExtension } from './part-room.ts';
import { copyRows } from './select-rows.ts';

/**
 * Keeps rendered parts of files on local disk. The part that belongs to one snapshot depends only on the snapshot's
 * version and the date it is shown under, and never changes; a replaced snapshot has another version. Losing any of it
 * costs time, never correctness: every block is checked as it is read, and the database stays the only truth.
 */
export interface PartStore {
  /** Whether all of them lie here whole. */
  hasAll(parts: readonly ExportPart[]): Promise<boolean>;
  /**
   * The blocks of a part: from disk, along with another request that is rendering it, or rendered and kept. What happens
   * on disk shows in time alone.
   * @param render gives the same blocks every time; called when they are needed, again if what was kept gets lost
   * @throws what `render` throws
   */
  blocks(part: ExportPart, render: () => AsyncIterable<Block>): AsyncGenerator<Block>;
  /** What kept parts take on disk; null: not known before something was written. */
  bytes(): number | null;
}

export interface PartStoreOptions {
  readonly directory: string;
  readonly maxBytes: number;
  /** Hears of trouble with the disk. */
  readonly onError: (error: unknown) => void;
  /** Hears where each part came from, and what was removed. */
  readonly onEvent: (event: PartStoreEvent) => void;
}

/** Makes the directory, which nobody else on the machine may look into. @throws ConfigError when it cannot */
export function createPartStore({ directory, maxBytes, onError, onEvent }: PartStoreOptions): PartStore {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    chmodSync(directory, 0o700);
  } catch (cause) {
    throw new ConfigError(`PART_STORE_DIR ${directory} cannot be made or is not ours`, { cause });
  }
  const room = createPartRoom(directory, maxBytes, () => onEvent('evicted'));
  /** By name; each has one request that renders it. */
  const growing = new Map<string, GrowingPart>();
  // A version of the service that writes or packs rows otherwise has parts of its own.
  const form = JSON.stringify([copyRows('', '', ''), packing]);
  const rendering = createHash('sha256').update(form).digest('hex').slice(0, 8);

  const nameOf = (part: ExportPart) => `${rendering}_${part.version}_${part.date}${partExtension}`;

  async function* readKept(handle: FileHandle, name: string): AsyncGenerator<Block> {
    const file = path.join(directory, name);
    const now = new Date();
    await utimes(file, now, now).catch(() => {});
    try {
      yield* readFrames(handle, name, null);
    } catch (error) {
      if (error instanceof PartLostError) {
        onEvent('lost');
        onError(error);
        await rm(file, { force: true }).catch(onError);
      }
      throw error;
    } finally {
      await handle.close();
    }
  }

  async function* readAlong(part: GrowingPart, name: string): AsyncGenerator<Block> {
    const grown = part.follow();
    await grown(0);
    const handle = await openForReading(part.path);
    if (handle === null) throw new PartLostError('The part has just become whole, or was given up.');
    try {
      yield* readFrames(handle, name, grown);
    } finally {
      await handle.close();
    }
  }

  /** Enters the part as growing before anything is awaited. */
  async function* renderAndKeep(name: string, rendered: AsyncIterable<Block>): AsyncGenerator<Block> {
    const part = createGrowingPart(path.join(directory, `${name}.${randomUUID()}${unfinishedExtension}`));
    growing.set(name, part);
    const settle = (state: 'whole' | 'given up') => {
      part.settle(state);
      if (growing.get(name) === part) growing.delete(name);
    };
    const giveUp = (error: unknown) => {
      onError(error);
      settle('given up');
    };
    const handle = await createFile(part.path).catch(giveUp);
    const append = async (bytes: Buffer) => {
      if (!handle || part.state !== 'growing') return;
      try {
        await room.fill(bytes.length, () => handle.appendFile(bytes));
        part.grow(bytes.length);
      } catch (error) {
        giveUp(error);
      }
    };

    const framer = createFramer(name);
    let isWhole = false;
    try {
      for await (const packed of mapAhead(rendered, pack)) {
        await append(framer.frame(packed));
        part.hold();
        yield packed;
        part.resume();
      }
      await append(framer.end());
      isWhole = part.state === 'growing';
    } finally {
      try {
        await handle?.close();
        if (isWhole) await rename(part.path, path.join(directory, name));
        else if (handle) await rm(part.path, { force: true });
      } catch (error) {
        isWhole = false;
        onError(error);
      }
      settle(isWhole ? 'whole' : 'given up');
    }
  }

  return {
    bytes: room.bytes,

    async hasAll(parts) {
      for (const part of parts) {
        if ((await stat(path.join(directory, nameOf(part))).catch(() => null)) === null) return false;
      }
      return true;
    },

    async *blocks(part, render) {
      const name = nameOf(part);
      let sentBytes = 0;
      let mayBeKept = true;
      let heldUp: GrowingPart | null = null;
      for (;;) {
        const other = growing.get(name);
        const isFollowing = other !== undefined && other !== heldUp;
        let source: AsyncIterable<Block>;
        let from: PartStoreEvent = 'read_along';
        if (isFollowing) source = readAlong(other, name);
        else {
          const kept =
            mayBeKept && other === undefined ? await openForReading(path.join(directory, name)) : null;
          // Another request may have begun meanwhile; from here to its entry nothing is awaited.
          if (kept === null && growing.get(name) !== other) continue;
          from = kept === null ? 'rendered' : 'kept';
          source = kept === null ? renderAndKeep(name, render()) : readKept(kept, name);
        }
        try {
          for await (const block of skip(source, sentBytes)) {
            yield block;
            sentBytes += block.plainBytes;
          }
          onEvent(from);
          return;
        } catch (error) {
          if (!(error instanceof PartLostError)) throw error;
          if (!isFollowing) mayBeKept = false;
          if (error instanceof HeldUpError) heldUp = other ?? null;
        }
      }
    },
  };
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

/** Blocks are cut alike every time, so what was sent ends where one of these ends. */
async function* skip(blocks: AsyncIterable<Block>, bytes: number): AsyncGenerator<Block> {
  let passed = 0;
  for await (const block of blocks) {
    if (passed >= bytes) yield block;
    passed += block.plainBytes;
  }
}
