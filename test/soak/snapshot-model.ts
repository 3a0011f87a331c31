import { type Aggregation, type ShownDate, shownDates } from '../../src/exports/aggregations.ts';
import { exportHeader } from '../helpers/adoption-rows.ts';
import { type Content, partOf } from './contents.ts';

/**
 * Contents that snapshots may have at any moment, from the answers that callers received. A write
 * without an answer may or may not have happened. Concurrent readers may see either state.
 */

/** `unknown` while the write is in progress, and permanently if it received no clear answer. */
type Outcome = 'unknown' | 'done' | 'refused';

export interface Write {
  settle(outcome: Outcome): void;
}

interface RecordedWrite {
  /** Null for a deletion. */
  readonly content: Content | null;
  readonly sentAt: number;
  settledAt: number;
  outcome: Outcome;
}

/** Time span of the real clock in milliseconds. */
export interface Span {
  readonly from: number;
  readonly to: number;
}

export interface SnapshotModel {
  /**
   * Records a write.
   * @returns null while another write of the snapshot is in progress: their order would be unknown
   */
  begin(environmentId: string, date: string, content: Content | null): Write | null;
  /**
   * Returns all contents that the snapshot may have had within the span. Null means no snapshot.
   */
  candidates(environmentId: string, date: string, span: Span): Set<Content | null>;
  dates(environmentId: string): string[];
  /** From now on retention may have removed days before this date that no file shows. */
  mayBeTidied(before: string): void;
  /**
   * Returns the difference between a complete file and the model, or null if the file is correct.
   */
  faultOf(
    environmentId: string,
    shown: readonly ShownDate[],
    file: ReceivedFile,
    span: Span,
  ): string | null;
}

export interface ReceivedFile {
  readonly text: string;
  /** Value of `X-Total-Rows`. Null if the answer has no such header. */
  readonly totalRows: number | null;
}

export const shownOn = (aggregation: Aggregation, today: string) => shownDates(aggregation, today);

export function createSnapshotModel(): SnapshotModel {
  const writes = new Map<string, Map<string, RecordedWrite[]>>();
  const busy = new Set<string>();
  let tidiedBefore = '';

  const candidates: SnapshotModel['candidates'] = (environmentId, date, { from, to }) => {
    let found = new Set<Content | null>([null]);
    for (const write of writes.get(environmentId)?.get(date) ?? []) {
      if (write.outcome === 'refused' || write.sentAt > to) continue;
      if (write.outcome === 'done' && write.settledAt <= from) found = new Set();
      found.add(write.content);
    }
    return found;
  };

  const dates = (environmentId: string) => [...(writes.get(environmentId)?.keys() ?? [])].sort();

  /** Returns the contents that a date of a file may show. Null means no content. */
  const partsOf = (
    environmentId: string,
    { date, from }: ShownDate,
    span: Span,
  ): (Content | null)[] => {
    const parts: (Content | null)[] = [];
    const days = dates(environmentId).filter(day => day <= date && (from === null || day >= from));
    for (const day of days.reverse()) {
      const held = candidates(environmentId, day, span);
      for (const content of held) if (content !== null) parts.push(content);
      const isOutdated =
        day < tidiedBefore && dates(environmentId).some(other => isNewerInWeek(other, day));
      if (!held.has(null) && !isOutdated) return parts;
    }
    return [...parts, null];
  };

  return {
    begin(environmentId, date, content) {
      const key = `${environmentId} ${date}`;
      if (busy.has(key)) return null;
      busy.add(key);
      const write: RecordedWrite = {
        content,
        sentAt: Date.now(),
        settledAt: Infinity,
        outcome: 'unknown',
      };
      const ofEnvironment = writes.get(environmentId) ?? new Map<string, RecordedWrite[]>();
      writes.set(environmentId, ofEnvironment);
      ofEnvironment.set(date, [...(ofEnvironment.get(date) ?? []), write]);
      return {
        settle(outcome) {
          write.outcome = outcome;
          write.settledAt = Date.now();
          busy.delete(key);
        },
      };
    },
    candidates,
    dates,
    mayBeTidied(before) {
      tidiedBefore = before;
    },
    faultOf(environmentId, shown, { text, totalRows }, span) {
      if (!text.startsWith(exportHeader))
        return `begins with ${JSON.stringify(text.slice(0, 100))}`;
      const possible = shown.map(date => ({
        date: date.date,
        parts: partsOf(environmentId, date, span),
      }));
      let furthest = { at: 0, date: '' };
      const rest = (index: number, at: number, rows: number): boolean => {
        const next = possible[index];
        if (next === undefined)
          return at === text.length && (totalRows === null || totalRows === rows);
        if (at >= furthest.at) furthest = { at, date: next.date };
        return next.parts.some(content => {
          const part = content === null ? '' : partOf(content, next.date);
          return (
            text.startsWith(part, at) &&
            rest(index + 1, at + part.length, rows + (content?.rowCount ?? 0))
          );
        });
      };
      if (rest(0, exportHeader.length, 0)) return null;
      const { at, date } = furthest;
      const wanted = possible
        .find(one => one.date === date)
        ?.parts.map(part => part?.id ?? 'nothing');
      return `at ${at} of ${text.length}, ${date}: ${JSON.stringify(text.slice(at, at + 120))}, may be ${wanted}; ${totalRows} rows announced`;
    },
  };
}

/** Returns true if `date` is later in the same week than `than`. Weeks start on Monday. */
function isNewerInWeek(date: string, than: string): boolean {
  const daysToSunday = (7 - new Date(than).getUTCDay()) % 7;
  const days = (Date.parse(date) - Date.parse(than)) / 86_400_000;
  return days > 0 && days <= daysToSunday;
}
