import type { Database } from '../db/database.ts';
import { earlierOf } from '../db/earlier-time.ts';
import { deleteOldAuditLines, deleteOldRuns } from './delete-old-lines.ts';
import { listOldDays, removeUnneededOfDay } from './delete-snapshots.ts';
import {
  type DroppedPartitions,
  dropEmptyPartitions,
  shrinkPartitions,
} from './drop-partitions.ts';

/** What the operator decides about how long things stay. */
export interface RetentionSettings {
  readonly snapshots: 'needed' | 'all';
  readonly runDays: number;
  readonly auditDays: number;
}

export interface TidiedUp {
  readonly snapshots: number;
  /** Days that were emptied at once. */
  readonly days: number;
  readonly partitions: DroppedPartitions;
  /** Days of which little was left. */
  readonly shrunk: number;
  readonly runs: number;
  readonly auditLines: number;
}

const dayMs = 24 * 60 * 60 * 1000;

/**
 * One night's work. Each step is a short transaction that holds nobody up and is right by itself, so it may end anywhere,
 * and two at once do no harm. A kind of work that fails keeps none of the others from being done.
 * @param now of the database, if that is earlier: a clock that is ahead would remove what is needed
 * @param signal ends it after the step under way
 * @throws the first error, after all else is done
 */
export async function tidyUp(
  db: Database,
  { snapshots: kept, runDays, auditDays }: RetentionSettings,
  now: Date,
  signal: AbortSignal,
): Promise<TidiedUp> {
  const time = await earlierOf(db, now);
  const today = time.toISOString().slice(0, 10);
  const before = (days: number) => new Date(time.getTime() - days * dayMs);
  const errors: unknown[] = [];
  const attempt = async <T>(work: Promise<T>, otherwise: T): Promise<T> =>
    await work.catch((error: unknown) => {
      errors.push(error);
      return otherwise;
    });
  let [snapshots, days, shrunk] = [0, 0, 0];
  let partitions: DroppedPartitions = { dropped: 0, unregistered: [] };
  async function removeSnapshots(): Promise<void> {
    for (const day of await listOldDays(db, today)) {
      if (signal.aborted) break;
      const { removed, emptied } = await removeUnneededOfDay(db, day, today, signal);
      snapshots += removed;
      if (emptied) days += 1;
    }
  }
  if (kept === 'needed') {
    await attempt(removeSnapshots(), undefined);
    partitions = await attempt(dropEmptyPartitions(db, today, signal), partitions);
    shrunk = await attempt(shrinkPartitions(db, today, signal), 0);
  }
  const runs = await attempt(deleteOldRuns(db, before(runDays), signal), 0);
  const auditLines = await attempt(deleteOldAuditLines(db, before(auditDays), signal), 0);
  if (errors.length > 0) throw errors[0];
  return { snapshots, days, partitions, shrunk, runs, auditLines };
}
