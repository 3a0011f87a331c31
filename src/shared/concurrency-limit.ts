import { AppError } from './errors.ts';

/**
 * A bound on how many long requests of one kind are served at once by this process, and how many of those one
 * environment may hold, so that no customer keeps all the others out.
 */
export interface Slots {
  /** @returns how to give the slot back, once. @throws AppError with the kind's code and `Retry-After` */
  take(environmentId: string): () => void;
  readonly taken: number;
}

export interface SlotLimits {
  readonly total: number;
  readonly perEnvironment: number;
  readonly code: 'too_many_downloads' | 'rate_limited';
  /** What they are, for the message: `downloads`. */
  readonly what: string;
}

const retryAfterSeconds = '5';

export function createSlots(limits: SlotLimits): Slots {
  const held = new Map<string, number>();
  let taken = 0;
  return {
    get taken() {
      return taken;
    },
    take(environmentId) {
      const own = held.get(environmentId) ?? 0;
      if (taken >= limits.total || own >= limits.perEnvironment) {
        const detail = `Too many ${limits.what} are under way. Try again when one has ended.`;
        throw new AppError(limits.code, detail, { headers: { 'retry-after': retryAfterSeconds } });
      }
      taken += 1;
      held.set(environmentId, own + 1);
      let givenBack = false;
      return () => {
        if (givenBack) return;
        givenBack = true;
        taken -= 1;
        const left = (held.get(environmentId) ?? 1) - 1;
        if (left === 0) held.delete(environmentId);
        else held.set(environmentId, left);
      };
    },
  };
}
