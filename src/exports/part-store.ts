import { randomUUID } from 'node:crypto';
import { chmodSync, mkdirSync } from 'node:fs';
import { open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import path from 'node:path';
import { ConfigError } from '../config.ts';
import { type Block, mapAhead, pack } from './blocks.ts';
import type { ExportPart } from './find-parts.ts';
import { encodeFrame, endFrame, openForReading, PartLostError, readFrames } from './part-file.ts';

/**
 * Keeps rendered parts of files on local disk. The part that belongs to one snapshot depends only on the snapshot's
 * version and the date it is shown under, and never changes; a replaced snapshot has another version. Losing any of it
 * costs time, never correctness: every block is checked as it is read, and the database stays the only truth.
 */
export interface PartStore {
  /** Whether all of them can be read now, or are on their way. */
  hasAll(parts: readonly ExportPart[]): Promise<boolean>;
  /** @returns the part's blocks, while it is being kept also those yet to come; null where it is not here */
  read(part: ExportPart): Promise<AsyncGenerator<Block> | null>;
  /** Passes the blocks of a part on and keeps them, if they can be kept; what happens on disk never shows here. */
  keep(part: ExportPart, blocks: AsyncIterable<Block>): AsyncGenerator<Block>;
}

export interface PartStoreOptions {
  readonly directory: string;
  readonly maxBytes: number;
  /** Hears of trouble with the disk. */
  readonly onError: (error: unknown) => void;
}

/** How long a reader waits for a part that another request is rendering before it renders the rest itself. */
const followTimeoutMs = 1_000;
/** A file that nobody has finished for so long was left by a process that died. */
const leftoverAgeMs = 15 * 60_000;
const extension = '.part';

/** A part that is being written by this process. */
interface Growing {
  readonly file: string;
  bytes: number;
  state: 'growing' | 'whole' | 'failed';
  readonly waiting: Set<() => void>;
}

/** Makes the directory, which nobody else on the machine may look into. @throws ConfigError when it cannot */
export function createPartStore({ directory, maxBytes, onError }: PartStoreOptions): PartStore {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    chmodSync(directory, 0o700);
  } catch (cause) {
    throw new ConfigError(`PART_STORE_DIR ${directory} cannot be made or is not ours`, { cause });
  }
  const growing = new Map<string, Growing>();
  let writtenSinceEviction = maxBytes;

  const fileOf = (part: ExportPart) => path.join(directory, `${part.version}_${part.date}${extension}`);

  async function evictWhenDue(): Promise<void> {
    if (writtenSinceEviction < maxBytes / 20) return;
    writtenSinceEviction = 0;
    await evict(directory, maxBytes * 0.9);
  }

  return {
    async hasAll(parts) {
      for (const file of parts.map(fileOf)) {
        if (!growing.has(file) && (await stat(file).catch(() => null)) === null) return false;
      }
      return true;
    },

    async read(part) {
      const file = fileOf(part);
      const entry = growing.get(file);
      const handle = await openForReading(entry?.file ?? file);
      if (handle === null) return null;
      if (entry === undefined) {
        const now = new Date();
        await utimes(file, now, now).catch(() => {});
      }
      return (async function* () {
        try {
          yield* readFrames(handle, entry === undefined ? null : bytes => waitForGrowth(entry, bytes));
        } catch (error) {
          if (error instanceof PartLostError && entry === undefined) {
            onError(error);
            await rm(file, { force: true });
          }
          throw error;
        } finally {
          await handle.close();
        }
      })();
    },

    async *keep(part, blocks) {
      const file = fileOf(part);
      if (growing.has(file)) {
        yield* blocks;
        return;
      }
      const entry: Growing = {
        file: `${file}.${randomUUID()}.tmp`,
        bytes: 0,
        state: 'growing',
        waiting: new Set(),
      };
      growing.set(file, entry);
      const handle = await open(entry.file, 'wx', 0o600).catch(giveUp);
      let isWritable = handle !== null;

      function giveUp(error: unknown): null {
        isWritable = false;
        onError(error);
        settle(entry, 'failed');
        return null;
      }
      async function write(bytes: Buffer): Promise<void> {
        if (handle === null || !isWritable) return;
        try {
          await handle.appendFile(bytes);
          entry.bytes += bytes.length;
          writtenSinceEviction += bytes.length;
          wake(entry);
        } catch (error) {
          giveUp(error);
        }
      }

      let isWhole = false;
      try {
        for await (const packed of mapAhead(blocks, pack)) {
          await write(encodeFrame(packed));
          yield packed;
        }
        await write(endFrame);
        isWhole = isWritable;
      } finally {
        await handle?.close().catch(onError);
        try {
          if (isWhole) await rename(entry.file, file);
          else await rm(entry.file, { force: true });
          if (isWhole) await evictWhenDue();
        } catch (error) {
          onError(error);
        }
        settle(entry, isWhole ? 'whole' : 'failed');
        growing.delete(file);
      }
    },
  };
}

function wake(entry: Growing): void {
  for (const resume of entry.waiting) resume();
  entry.waiting.clear();
}

function settle(entry: Growing, state: 'whole' | 'failed'): void {
  entry.state = state;
  wake(entry);
}

/** @throws PartLostError when nothing comes for a while: a slow reader sets the writer's pace, and others need not wait */
async function waitForGrowth(entry: Growing, bytes: number): Promise<void> {
  while (entry.bytes <= bytes && entry.state === 'growing') {
    await new Promise<void>((resolve, reject) => {
      const late = setTimeout(() => {
        entry.waiting.delete(resume);
        reject(new PartLostError('The part comes too slowly.'));
      }, followTimeoutMs);
      const resume = () => {
        clearTimeout(late);
        resolve();
      };
      entry.waiting.add(resume);
    });
  }
  if (entry.bytes <= bytes && entry.state === 'failed') throw new PartLostError('The part was given up.');
}

/** Removes the files that were used the longest ago until the rest fits, and what dead processes left. */
async function evict(directory: string, maxBytes: number): Promise<void> {
  const files: { file: string; bytes: number; usedAt: number }[] = [];
  for (const name of await readdir(directory)) {
    const file = path.join(directory, name);
    const info = await stat(file).catch(() => null);
    if (info === null || !info.isFile()) continue;
    if (name.endsWith(extension)) files.push({ file, bytes: info.size, usedAt: info.mtimeMs });
    else if (name.endsWith('.tmp') && Date.now() - info.mtimeMs > leftoverAgeMs)
      await rm(file, { force: true });
  }
  let total = files.reduce((sum, { bytes }) => sum + bytes, 0);
  for (const { file, bytes } of files.toSorted((a, b) => a.usedAt - b.usedAt)) {
    if (total <= maxBytes) return;
    await rm(file, { force: true });
    total -= bytes;
  }
}
