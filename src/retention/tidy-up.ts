import type { Database } from '../db/database.ts';
import { deleteOldAuditLines, deleteOldRuns } from './delete-old-lines.ts';
import { listOldDays, removeUnneededOfDay } from './delete-snapshots.ts';
import { type DroppedPartitions, dropEmptyPartitions, shrinkPartitions } from './drop-partitions.ts';

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
 * and two at once do no harm.
 * @param signal ends it after the step under way
 */
export async function tidyUp(
  db: Database,
  { snapshots: kept, runDays, auditDays }: RetentionSettings,
  now: Date,
  signal: AbortSignal,
): Promise<TidiedUp> {
  const today = now.toISOString().slice(0, 10);
  const before = (days: number) => new Date(now.getTime() - days * dayMs);
  let [snapshots, days, shrunk] = [0, 0, 0];
  let partitions: DroppedPartitions = { dropped: 0, unregistered: [] };
  if (kept === 'needed') {
    for (const day of await listOldDays(db, today)) {
      if (signal.aborted) break;
      const { removed, emptied } = await removeUnneededOfDay(db, day, today, signal);
      snapshots += removed;
      if (emptied) days += 1;
    }
    partitions = await dropEmptyPartitions(db, today, signal);
    shrunk = await shrinkPartitions(db, today, signal);
  }
  const runs = await deleteOldRuns(db, before(runDays), signal);
  const auditLines = await deleteOldAuditLines(db, before(auditDays), signal);
  return { snapshots, days, partitions, shrunk, runs, auditLines };
}
