import { createHash, randomUUID } from 'node:crypto';
import { chmodSync, mkdirSync } from 'node:fs';
import { access, type FileHandle, rm, utimes } from 'node:fs/promises';
import path from 'node:path';
import { ConfigError } from '../config/config.ts';
import type { PartStoreEvent } from '../observability/metrics.ts';
import { cutting, type Form, type Frame, framesOf, plainBytesOf } from './frames.ts';
import { createGrowingPart, type GrowingPart, HeldUpError } from './growing-part.ts';
import { createHeldFiles, type HeldFiles } from './held-files.ts';
import { keepFrames } from './keep-frames.ts';
import { openForReading, PartLostError, readFrames } from './part-file.ts';
import { createPartRoom, partExtension, unfinishedExtension } from './part-room.ts';
import type { ExportPart } from './plan-export.ts';
import { copyRows } from './select-rows.ts';

/**
 * Keeps rendered parts of files on local disk, in each form that was asked for. The part that belongs to one snapshot
 * depends only on the snapshot's version and the date it is shown under, and never changes; a replaced snapshot has
 * another version. Losing any of it costs time, never correctness: every frame is checked as it is read, and the database
 * stays the only truth.
 */
export interface PartStore {
  /**
   * Opens the files of all parts, in that form or else the other. They are then there until they are read or closed.
   * @returns null when a part is not kept
   */
  holdAll(parts: readonly ExportPart[], form: Form): Promise<HeldFiles | null>;
  /**
   * The frames of a part: from disk, along with another request that is making them, or rendered. What happens on disk
   * shows in time alone.
   * @throws what `render` throws
   */
  frames(part: ExportPart, wanted: WantedFrames): AsyncGenerator<Frame>;
  /** What kept parts take on disk; null: not known before something was written. */
  bytes(): number | null;
}

export interface WantedFrames {
  readonly form: Form;
  /** Whether to keep what was not there. */
  readonly keep: boolean;
  /** What was opened for this reader. */
  readonly held: HeldFiles | null;
  /** The plain bytes, the same every time; called when they are needed, again if what was kept gets lost. */
  readonly render: () => AsyncIterable<Buffer>;
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
export function createPartStore({
  directory,
  maxBytes,
  onError,
  onEvent,
}: PartStoreOptions): PartStore {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    chmodSync(directory, 0o700);
  } catch (cause) {
    throw new ConfigError(`PART_STORE_DIR ${directory} cannot be made or is not ours`, { cause });
  }
  const room = createPartRoom(directory, maxBytes, () => onEvent('evicted'));
  /** By name; each has one request that makes it. */
  const growing = new Map<string, GrowingPart>();
  // A version of the service that writes, cuts or packs rows otherwise has parts of its own.
  const rendering = createHash('sha256')
    .update(JSON.stringify([copyRows('', '', ''), cutting]))
    .digest('hex')
    .slice(0, 8);

  const nameOf = (part: ExportPart, form: Form) =>
    `${rendering}_${part.version}_${part.date}_${form}${partExtension}`;
  const fileOf = (name: string) => path.join(directory, name);
  const isKept = (name: string) =>
    access(fileOf(name)).then(
      () => true,
      () => false,
    );

  async function* readKept(handle: FileHandle, name: string): AsyncGenerator<Frame> {
    const now = new Date();
    await utimes(fileOf(name), now, now).catch(() => {});
    try {
      yield* readFrames(handle, name, null);
    } catch (error) {
      if (error instanceof PartLostError) {
        onEvent('lost');
        onError(error);
        await rm(fileOf(name), { force: true }).catch(onError);
      }
      throw error;
    } finally {
      await handle.close();
    }
  }

  async function* readAlong(part: GrowingPart, name: string): AsyncGenerator<Frame> {
    const grown = part.follow();
    await grown(0);
    const handle = await openForReading(part.path);
    if (handle === null)
      throw new PartLostError('The part has just become whole, or was given up.');
    try {
      yield* readFrames(handle, name, grown);
    } finally {
      await handle.close();
    }
  }

  /** Enters the part as growing at once. */
  function keep(
    name: string,
    frames: AsyncIterable<Frame>,
    isConverted: boolean,
  ): AsyncGenerator<Frame> {
    const file = fileOf(`${name}.${randomUUID()}${unfinishedExtension}`);
    const part = createGrowingPart(file, isConverted);
    growing.set(name, part);
    const onSettled = () => {
      if (growing.get(name) === part) growing.delete(name);
    };
    return keepFrames(frames, { part, target: fileOf(name), room, onError, onSettled });
  }

  /** Where the frames come from when they are not there in the form that is wanted. */
  function make(
    part: ExportPart,
    wanted: WantedFrames,
    isInOtherForm: boolean,
  ): AsyncGenerator<Frame> {
    if (!isInOtherForm) return framesOf(wanted.render(), wanted.form);
    const form = otherForm(wanted.form);
    const inOtherForm = frames(part, { ...wanted, form, keep: false }, false);
    return framesOf(plainBytesOf(inOtherForm, form), wanted.form);
  }

  /**
   * @param mayConvert false for the source of a conversion. It neither converts nor follows a part that is converted: two
   *   requests that make each form out of the other would wait for each other for ever
   */
  async function* frames(
    part: ExportPart,
    wanted: WantedFrames,
    mayConvert: boolean,
  ): AsyncGenerator<Frame> {
    const name = nameOf(part, wanted.form);
    const otherName = nameOf(part, otherForm(wanted.form));
    let sentBytes = 0;
    let mayBeKept = true;
    let heldUp: GrowingPart | null = null;
    for (;;) {
      const other = growing.get(name);
      const held = wanted.held?.take(fileOf(name)) ?? null;
      const isFollowing =
        held === null &&
        other !== undefined &&
        other !== heldUp &&
        (mayConvert || !other.isConverted);
      let source: AsyncIterable<Frame>;
      let from: PartStoreEvent | null = 'read_along';
      if (isFollowing) source = readAlong(other, name);
      else {
        const kept =
          held ?? (mayBeKept && other === undefined ? await openForReading(fileOf(name)) : null);
        // What is itself being made out of this form is no source for it.
        const isInOtherForm =
          kept === null &&
          mayConvert &&
          (wanted.held?.has(fileOf(otherName)) ||
            (await isKept(otherName)) ||
            growing.get(otherName)?.isConverted === false);
        // Another request may have begun meanwhile; from here to its entry nothing is awaited.
        if (kept === null && growing.get(name) !== other) continue;
        if (kept !== null) [source, from] = [readKept(kept, name), 'kept'];
        else {
          const made = make(part, wanted, isInOtherForm);
          // Where it is there in the other form, that is told of there.
          [source, from] = [
            wanted.keep ? keep(name, made, isInOtherForm) : made,
            isInOtherForm ? null : 'rendered',
          ];
        }
      }
      try {
        for await (const frame of skip(source, sentBytes)) {
          yield frame;
          sentBytes += frame.plainBytes;
        }
        if (from !== null) onEvent(from);
        return;
      } catch (error) {
        if (!(error instanceof PartLostError)) throw error;
        if (!isFollowing) mayBeKept = false;
        if (error instanceof HeldUpError) heldUp = other ?? null;
      }
    }
  }

  return {
    bytes: room.bytes,
    frames: (part, wanted) => frames(part, wanted, true),
    async holdAll(parts, form) {
      const held = createHeldFiles();
      for (const part of parts) {
        if (await held.hold(fileOf(nameOf(part, form)))) continue;
        if (await held.hold(fileOf(nameOf(part, otherForm(form))))) continue;
        held.close();
        return null;
      }
      return held;
    },
  };
}

function otherForm(form: Form): Form {
  return form === 'plain' ? 'deflated' : 'plain';
}

/** Parts are cut alike every time, so what was sent ends where one of these frames ends. */
async function* skip(frames: AsyncIterable<Frame>, bytes: number): AsyncGenerator<Frame> {
  let passed = 0;
  for await (const frame of frames) {
    if (passed >= bytes) yield frame;
    passed += frame.plainBytes;
  }
}
