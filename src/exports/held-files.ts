import type { FileHandle } from 'node:fs/promises';
import { openForReading } from './part-file.ts';

/** Files that a reader will come to, opened before: they can be read whatever is removed meanwhile. */
export interface HeldFiles {
  /** @returns whether there is such a file */
  hold(path: string): Promise<boolean>;
  has(path: string): boolean;
  /** Whoever takes it closes it. null: it is not held, or was taken before. */
  take(path: string): FileHandle | null;
  /** Closes what was not taken. Safe to call again. */
  close(): void;
}

export function createHeldFiles(): HeldFiles {
  const handles = new Map<string, FileHandle>();
  return {
    async hold(path) {
      const handle = await openForReading(path);
      if (handle !== null) handles.set(path, handle);
      return handle !== null;
    },
    has: path => handles.has(path),
    take(path) {
      const handle = handles.get(path) ?? null;
      handles.delete(path);
      return handle;
    },
    close() {
      for (const handle of handles.values()) void handle.close();
      handles.clear();
    },
  };
}
