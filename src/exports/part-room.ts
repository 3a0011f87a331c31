import { readdir, rm, stat } from 'node:fs/promises';
import path from 'node:path';

/** The space that kept parts may take, all of the directory's files counted. */
export interface PartRoom {
  /** Asked before so many bytes are written; makes room if need be. @returns false when there is none to be made */
  reserve(bytes: number): Promise<boolean>;
}

export const partExtension = '.part';
export const unfinishedExtension = '.tmp';

/** A file that nobody has finished or written to for so long was left by a process that died. */
const leftoverAgeMs = 15 * 60_000;

/**
 * Looks at the directory whenever a twentieth of the room was written since, and then leaves a tenth free: another
 * process or two may use the same directory, each with its own twentieth.
 */
export function createPartRoom(directory: string, maxBytes: number): PartRoom {
  let reserved = Number.POSITIVE_INFINITY;
  let looking: Promise<boolean> | null = null;

  async function look(): Promise<boolean> {
    reserved = 0;
    const usedBytes = await evict(directory, maxBytes * 0.9);
    return usedBytes <= maxBytes * 0.9;
  }

  return {
    async reserve(bytes) {
      reserved += bytes;
      if (reserved <= maxBytes / 20) return true;
      looking ??= look().finally(() => {
        looking = null;
      });
      const isRoom = await looking;
      reserved += bytes;
      return isRoom && bytes <= maxBytes / 20;
    },
  };
}

/**
 * Removes what dead processes left, and then the parts that were used the longest ago until the rest fits.
 * @returns how many bytes are left
 */
async function evict(directory: string, maxBytes: number): Promise<number> {
  const parts: { file: string; bytes: number; usedAt: number }[] = [];
  let total = 0;
  for (const name of await readdir(directory)) {
    const file = path.join(directory, name);
    const info = await stat(file).catch(() => null);
    if (info === null || !info.isFile()) continue;
    // Small files take a whole block of the disk.
    const bytes = Math.max(info.size, info.blocks * 512);
    if (name.endsWith(unfinishedExtension) && Date.now() - info.mtimeMs > leftoverAgeMs) {
      await rm(file, { force: true });
      continue;
    }
    total += bytes;
    if (name.endsWith(partExtension)) parts.push({ file, bytes, usedAt: info.mtimeMs });
  }
  for (const { file, bytes } of parts.toSorted((a, b) => a.usedAt - b.usedAt)) {
    if (total <= maxBytes) break;
    await rm(file, { force: true });
    total -= bytes;
  }
  return total;
}
