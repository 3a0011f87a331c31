import { readdir, rm, stat } from 'node:fs/promises';
import path from 'node:path';

/** The space that kept parts may take, all of the directory's files counted. */
export interface PartRoom {
  /**
   * Makes room for so many bytes if need be, then writes them.
   * @throws NoRoomError, or what `write` throws
   */
  fill(bytes: number, write: () => Promise<void>): Promise<void>;
  /** As of the last look, and what was written since; null before the first. */
  bytes(): number | null;
}

export class NoRoomError extends Error {
  override readonly name = 'NoRoomError';
}

export const partExtension = '.part';
export const unfinishedExtension = '.tmp';

/** A file that nobody has finished or written to for so long was left by a process that died. */
const leftoverAgeMs = 15 * 60_000;

/**
 * Looks at the directory whenever a twentieth of the room was written since, and then leaves a tenth free: another
 * process or two may use the same directory, each with its own twentieth.
 */
export function createPartRoom(
  directory: string,
  maxBytes: number,
  onEvicted = () => {},
): PartRoom {
  let sinceLook = Number.POSITIVE_INFINITY;
  let leftByLook = 0;
  /** May be on disk already, or not yet. */
  let inFlight = 0;
  let looking: Promise<boolean> | null = null;

  async function look(): Promise<boolean> {
    sinceLook = inFlight;
    const limit = maxBytes * 0.9 - inFlight;
    leftByLook = await evict(directory, limit, onEvicted);
    return leftByLook <= limit;
  }

  return {
    bytes: () => (Number.isFinite(sinceLook) ? leftByLook + sinceLook : null),

    async fill(bytes, write) {
      inFlight += bytes;
      sinceLook += bytes;
      try {
        if (sinceLook > maxBytes / 20) {
          looking ??= look().finally(() => {
            looking = null;
          });
          if (!(await looking)) throw new NoRoomError('The part store is too small for this part.');
        }
        await write();
      } finally {
        inFlight -= bytes;
      }
    },
  };
}

/**
 * Removes what dead processes left, and then the parts that were used the longest ago until the rest fits.
 * @returns how many bytes are left
 */
async function evict(directory: string, maxBytes: number, onEvicted: () => void): Promise<number> {
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
    onEvicted();
  }
  return total;
}
