import type { StoragePace } from '../destinations/s3/request-handler.ts';
import type { FileFormat } from '../shared/file-format.ts';

/**
 * Keeps slow storages from occupying all workers of this process. An attempt is slow if its
 * storage kept it waiting for longer than `graceMs` and accepts less than `minBytesPerSecond`. A
 * slow attempt needs a place in the slow lane. If the lane is full, the attempt ends and the run
 * waits. For `rememberMs` afterwards, attempts of that environment start in the lane.
 *
 * The lane has fewer places for Parquet attempts, because these also hold a place for a conversion.
 *
 * Slow storages can therefore hold all workers for at most `graceMs`, 300 s and 80 s. The 300 s are
 * one request that cannot be aborted, the 80 s are the clean-up. A tenant can repeat that only with
 * another environment, and only the operator creates environments.
 */
export interface SlowLane {
  /** Admits an attempt. @returns null if its environment was slow and the lane is full */
  admit(environmentId: string, format: FileFormat): LanePass | null;
}

export interface LanePass {
  /** Measures the requests of the attempt. */
  readonly pace: StoragePace;
  /** Returns false if the storage is slow and the lane is full. The attempt must then end. */
  mayContinue(): boolean;
  /** Ends the attempt. */
  leave(): void;
}

export interface SlowLaneOptions {
  readonly places: number;
  /** Places that Parquet attempts may take. Fewer than a process has for conversions. */
  readonly parquetPlaces: number;
  readonly graceMs: number;
  readonly minBytesPerSecond: number;
  readonly rememberMs: number;
  /** Monotonic clock in milliseconds. */
  readonly now: () => number;
}

/** Wait of an attempt that does not count for later attempts. */
const freeMs = 2_000;

export function createSlowLane(options: SlowLaneOptions): SlowLane {
  const { places, parquetPlaces, graceMs, minBytesPerSecond, rememberMs, now } = options;
  /** Time until which an environment starts in the lane. */
  const slowUntil = new Map<string, number>();
  /** Wait of ended attempts within the last `rememberMs`, beyond what their bytes explain. */
  const debts = new Map<string, { waitedMs: number; until: number }>();
  let taken = 0;
  let takenByParquet = 0;

  const debtOf = (environmentId: string) => {
    for (const [id, { until }] of debts) if (until <= now()) debts.delete(id);
    return debts.get(environmentId)?.waitedMs ?? 0;
  };
  const wasSlow = (environmentId: string) => {
    for (const [id, until] of slowUntil) if (until <= now()) slowUntil.delete(id);
    return slowUntil.has(environmentId);
  };

  return {
    admit(environmentId, format) {
      const parquet = format === 'parquet' ? 1 : 0;
      let isInLane = false;
      /** Takes a place. @returns false if there is none */
      const enter = () => {
        if (taken >= places || takenByParquet + parquet > parquetPlaces) return false;
        taken += 1;
        takenByParquet += parquet;
        isInLane = true;
        return true;
      };
      if (wasSlow(environmentId) && !enter()) return null;
      const pace = createPace(now);
      const excessMs = () => pace.waitedMs() - (1_000 * pace.takenBytes()) / minBytesPerSecond;
      const isSlow = () => debtOf(environmentId) + excessMs() > graceMs;
      return {
        pace,
        mayContinue() {
          if (!isSlow()) return true;
          slowUntil.set(environmentId, now() + rememberMs);
          return isInLane || enter();
        },
        leave() {
          if (isInLane) {
            taken -= 1;
            takenByParquet -= parquet;
          }
          isInLane = false;
          // A storage that fails each attempt shortly before `graceMs` is slow too.
          const waitedMs = debtOf(environmentId) + Math.max(0, excessMs() - freeMs);
          const until = debts.get(environmentId)?.until ?? now() + rememberMs;
          if (waitedMs > 0) debts.set(environmentId, { waitedMs, until });
          if (waitedMs > graceMs) slowUntil.set(environmentId, now() + rememberMs);
        },
      };
    },
  };
}

/**
 * Measures the time in which at least one request is in progress. Time of the database does not
 * count.
 */
function createPace(now: () => number) {
  let requests = 0;
  let since = 0;
  let waited = 0;
  let taken = 0;
  return {
    waitedMs: () => waited + (requests > 0 ? now() - since : 0),
    takenBytes: () => taken,
    start() {
      if (requests === 0) since = now();
      requests += 1;
      return (bytes: number) => {
        requests -= 1;
        taken += bytes;
        if (requests === 0) waited += now() - since;
      };
    },
  };
}

/** Error for an attempt with a slow storage while the slow lane is full. */
export class SlowLaneFullError extends Error {
  override readonly name = 'SlowLaneFullError';
}

/**
 * Checks every second whether the attempt may continue. Otherwise `signal` aborts with a
 * SlowLaneFullError.
 */
export function watchLane(pass: LanePass): { readonly signal: AbortSignal; end(): void } {
  const controller = new AbortController();
  const timer = setInterval(() => {
    if (!pass.mayContinue()) controller.abort(new SlowLaneFullError('The slow lane is full.'));
  }, 1_000);
  return { signal: controller.signal, end: () => clearInterval(timer) };
}
