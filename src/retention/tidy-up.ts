import type { Database } from '../db/database.ts';
import { earlierOf } from '../db/earlier-time.ts';
import { deleteOldAuditLines, deleteOldRuns } from './delete-old-lines.sql.ts';
import { type RemovedDays, removeOldDays } from './remove-old-days.sql.ts';

/** Retention times of the operator. */
export interface RetentionSettings {
  readonly snapshots: 'needed' | 'all';
  readonly runDays: number;
  readonly auditDays: number;
}

const dayMs = 24 * 60 * 60 * 1000;
const defaultTimeoutMs = 20_000;
const noDays: RemovedDays = { partitions: 0, snapshots: 0, unrendered: [], unregistered: [] };

/**
 * Deletes expired data. Each step is complete in itself: the work may end after any of them, and
 * may run twice at once. An error in one kind of work does not prevent the others.
 * @param now replaced by the database's time if that is earlier, because a fast clock would delete
 * needed data
 * @param signal ends the work after the current step
 * @param timeoutMs see `RemovalOptions`
 * @throws the first error, after all other work is done
 */
export async function tidyUp(
  db: Database,
  { snapshots: kept, runDays, auditDays }: RetentionSettings,
  now: Date,
  signal: AbortSignal,
  timeoutMs = defaultTimeoutMs,
) {
  const time = await earlierOf(db, now);
  const before = (days: number) => new Date(time.getTime() - days * dayMs);
  const work = [
    kept === 'needed' ? removeOldDays(db, { now: time, signal, timeoutMs }) : noDays,
    deleteOldRuns(db, before(runDays), signal),
    deleteOldAuditLines(db, before(auditDays), signal),
  ] as const;
  await Promise.allSettled(work);
  const [days, runs, auditLines] = await Promise.all(work);
  return { ...days, runs, auditLines };
}
