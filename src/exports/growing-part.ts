import { PartLostError } from './part-file.ts';

/**
 * How long in all a reader waits while the one who renders is itself held up by its own reader. Waiting for the
 * database has no limit: rendering a second time would take longer.
 */
const patienceWithReadersMs = 1_000;

/** The part comes at the pace of somebody else's slow reader. */
export class HeldUpError extends PartLostError {
  override readonly name = 'HeldUpError';
}

/** A part that one request of this process is rendering, for the others that read along from its file. */
export interface GrowingPart {
  readonly path: string;
  /** Is made out of the other form, which may itself be growing. */
  readonly isConverted: boolean;
  readonly state: 'growing' | 'whole' | 'given up';
  /** So many more bytes, whole frames all, stand in the file. */
  grow(bytes: number): void;
  /** Its reader has got a block and not yet asked for the next. */
  hold(): void;
  resume(): void;
  settle(state: 'whole' | 'given up'): void;
  /**
   * @returns what one reader waits with: resolves once the file has more than so many bytes
   * @throws PartLostError when it never will, HeldUpError when that takes too long
   */
  follow(): (bytes: number) => Promise<void>;
}

export function createGrowingPart(path: string, isConverted: boolean): GrowingPart {
  let size = 0;
  let state: GrowingPart['state'] = 'growing';
  let heldMs = 0;
  let heldSince: number | null = null;
  const waiting = new Set<() => void>();

  const held = () => heldMs + (heldSince === null ? 0 : performance.now() - heldSince);
  const wake = () => {
    for (const resolve of waiting) resolve();
    waiting.clear();
  };
  const wakeUp = async (limitMs: number) => {
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>(resolve => {
      waiting.add(resolve);
      timer = setTimeout(() => {
        waiting.delete(resolve);
        resolve();
      }, limitMs);
    });
    clearTimeout(timer);
  };

  return {
    path,
    isConverted,
    get state() {
      return state;
    },
    grow(bytes) {
      size += bytes;
      wake();
    },
    hold() {
      heldSince = performance.now();
    },
    resume() {
      heldMs = held();
      heldSince = null;
    },
    settle(outcome) {
      if (state === 'growing') state = outcome;
      wake();
    },
    follow() {
      let patienceMs = patienceWithReadersMs;
      return async bytes => {
        while (size <= bytes && state === 'growing') {
          const before = held();
          await wakeUp(patienceMs);
          patienceMs -= held() - before;
          if (patienceMs <= 0) throw new HeldUpError('The part comes too slowly.');
        }
        if (size <= bytes) throw new PartLostError('The part was given up.');
      };
    },
  };
}
