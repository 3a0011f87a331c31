import type { Database } from '../db/database.ts';
import { earlierOf } from '../db/earlier-time.ts';
import { deleteOldAuditLines, deleteOldRuns } from './delete-old-lines.ts';
import { type RemovedDays, removeOldDays } from './remove-old-days.ts';

/** Retention times of the operator. */
export interface RetentionSettings {
  readonly snapshots: 'needed' | 'all';
  readonly runDays: number;
  readonly auditDays: number;
}

export interface TidiedUp extends RemovedDays {
  readonly runs: number;
  readonly auditLines: number;
}

const dayMs = 24 * 60 * 60 * 1000;
const defaultPatienceMs = 20_000;

/**
 * Deletes expired data. Each step is complete in itself: the work may end after any of them, and
 * may run twice at once. An error in one kind of work does not prevent the others.
 * @param now replaced by the database's time if that is earlier, because a fast clock would delete
 * needed data
 * @param signal ends the work after the current step
 * @param patienceMs see `RemovalOptions`
 * @throws the first error, after all other work is done
 */
export async function tidyUp(
  db: Database,
  { snapshots: kept, runDays, auditDays }: RetentionSettings,
  now: Date,
  signal: AbortSignal,
  patienceMs = defaultPatienceMs,
): Promise<TidiedUp> {
  const time = await earlierOf(db, now);
  const before = (days: number) => new Date(time.getTime() - days * dayMs);
  const errors: unknown[] = [];
  const attempt = async <T>(work: Promise<T>, fallback: T): Promise<T> =>
    await work.catch((error: unknown) => {
      errors.push(error);
      return fallback;
    });
  let days: RemovedDays = { partitions: 0, snapshots: 0, unrendered: [], unregistered: [] };
  if (kept === 'needed')
    days = await attempt(removeOldDays(db, { now: time, signal, patienceMs }), days);
  const runs = await attempt(deleteOldRuns(db, before(runDays), signal), 0);
  const auditLines = await attempt(deleteOldAuditLines(db, before(auditDays), signal), 0);
  if (errors.length > 0) throw errors[0];
  return { ...days, runs, auditLines };
}
