import { AppError } from './errors.ts';

/**
 * Limits the checks of buckets and webhooks of this process. Endpoints may answer slowly, so
 * environments with slow endpoints share a few places and cannot occupy all of them repeatedly.
 */
export interface CheckPlaces {
  /**
   * Admits one check. A check waits for a place for a short time.
   *
   * @returns a function that releases the place; further calls have no effect
   * @throws AppError `rate_limited` with `Retry-After` if there is no place
   */
  acquire(environmentId: string): Promise<() => void>;
  /** Number of checks admitted and not yet released. */
  readonly active: number;
}

export interface CheckPlacesOptions {
  readonly total: number;
  /** Maximum number of checks of an environment, the waiting ones included. */
  readonly perEnvironment: number;
  /** Places that environments with slow endpoints share. */
  readonly slowPlaces: number;
  /** Longest wait for a place in milliseconds. */
  readonly waitMs: number;
  /** Part of the duration of each check that does not count, in milliseconds. */
  readonly freeMs: number;
  /** Sum of durations within `rememberMs` from which on an environment counts as slow. */
  readonly slowMs: number;
  readonly rememberMs: number;
  /** Monotonic clock in milliseconds. */
  readonly now: () => number;
}

const retryAfterSeconds = '5';

/** Checks of one environment. */
interface Account {
  /** Start times of checks in progress. */
  readonly started: Set<{ readonly at: number }>;
  /** Durations of ended checks beyond `freeMs`. */
  readonly ended: { readonly at: number; readonly ms: number }[];
}

interface Waiting {
  readonly account: Account;
  readonly admit: (release: () => void) => void;
}

export function createCheckPlaces(options: CheckPlacesOptions): CheckPlaces {
  const { total, perEnvironment, slowPlaces, waitMs, freeMs, slowMs, rememberMs, now } = options;
  const accounts = new Map<string, Account>();
  let queue: readonly Waiting[] = [];
  let active = 0;
  let slowActive = 0;

  const waitingOf = (account: Account) => queue.filter(each => each.account === account).length;

  const accountOf = (environmentId: string): Account => {
    for (const [id, account] of accounts) {
      const { started, ended } = account;
      while (ended[0] !== undefined && ended[0].at + rememberMs <= now()) ended.shift();
      if (started.size + ended.length + waitingOf(account) === 0) accounts.delete(id);
    }
    const found = accounts.get(environmentId);
    if (found !== undefined) return found;
    const opened: Account = { started: new Set(), ended: [] };
    accounts.set(environmentId, opened);
    return opened;
  };

  const isSlow = ({ started, ended }: Account) => {
    const past = ended.reduce((sum, { ms }) => sum + ms, 0);
    const present = [...started].reduce((sum, { at }) => sum + excessMs(at), 0);
    return past + present >= slowMs;
  };
  const excessMs = (startedAt: number) => Math.max(0, now() - startedAt - freeMs);

  const enter = (account: Account, isInLane: boolean): (() => void) => {
    const start = { at: now() };
    account.started.add(start);
    active += 1;
    if (isInLane) slowActive += 1;
    return () => {
      if (!account.started.delete(start)) return;
      const ms = excessMs(start.at);
      if (ms > 0) account.ended.push({ at: now(), ms });
      active -= 1;
      if (isInLane) slowActive -= 1;
      admitNext();
    };
  };

  /** Admits the first waiting check of the environment with the fewest checks. */
  const admitNext = () => {
    if (active >= total) return;
    const next = queue.reduce<Waiting | null>(
      (best, each) =>
        best === null || each.account.started.size < best.account.started.size ? each : best,
      null,
    );
    if (next === null) return;
    queue = queue.filter(each => each !== next);
    next.admit(enter(next.account, false));
  };

  const waitForPlace = async (account: Account): Promise<() => void> => {
    const { promise, resolve, reject } = Promise.withResolvers<() => void>();
    const waiting: Waiting = { account, admit: resolve };
    queue = [...queue, waiting];
    const timer = setTimeout(() => {
      queue = queue.filter(each => each !== waiting);
      reject(tooMany());
    }, waitMs);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
    }
  };

  return {
    get active() {
      return active;
    },
    async acquire(environmentId) {
      const account = accountOf(environmentId);
      if (account.started.size + waitingOf(account) >= perEnvironment) throw tooMany();
      const isInLane = isSlow(account);
      if (isInLane && (slowActive >= slowPlaces || active >= total)) throw tooMany();
      if (isInLane || active < total) return enter(account, isInLane);
      return await waitForPlace(account);
    },
  };
}

function tooMany(): AppError {
  return new AppError(
    'rate_limited',
    'Too many checks of buckets and webhooks are in progress. Try again when one has ended.',
    { headers: { 'retry-after': retryAfterSeconds } },
  );
}
