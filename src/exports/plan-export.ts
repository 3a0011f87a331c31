import { inStep } from '../observability/tracing.ts';
import type { ShownDate } from './aggregations.ts';

/** The part of a file that shows one date: one snapshot's rows. */
export interface ExportPart {
  readonly date: string;
  readonly snapshotDate: string;
  /** Changes when the snapshot is replaced. */
  readonly version: string;
  readonly rowCount: number;
}

/** What a file consists of, known before its first byte. */
export interface ExportPlan {
  /** In the file's order. */
  readonly parts: readonly ExportPart[];
  /** Dates that no snapshot can be shown under. */
  readonly missingDates: readonly string[];
  readonly rowCount: number;
}

/** Anything that runs a query: a pool, or a connection inside a transaction. */
interface Queryable {
  query<R extends object>(text: string, values: unknown[]): Promise<{ rows: R[] }>;
}

/** $1: environment, $2: dates, $3: for each the first day that it may take its snapshot from, or null. */
const findSnapshots = `
  select shown.date, found.snapshot_date as "snapshotDate", found.version, found.row_count as "rowCount"
  from unnest($2::date[], $3::date[]) as shown (date, first)
  left join lateral (
    select snapshot_date, version, row_count
    from snapshots
    where environment_id = $1
      and snapshot_date <= shown.date
      and snapshot_date >= coalesce(shown.first, '-infinity')
    order by snapshot_date desc
    limit 1
  ) as found on true
  order by shown.date`;

/** Chooses the snapshot of every date from the registry of complete snapshots. */
export async function findParts(
  db: Queryable,
  environmentId: string,
  dates: readonly ShownDate[],
): Promise<ExportPlan> {
  const values = [environmentId, dates.map(shown => shown.date), dates.map(shown => shown.from)];
  const { rows } = await inStep('read the registry', { 'whx.dates': dates.length }, () =>
    db.query<ExportPart | { [K in keyof ExportPart]: K extends 'date' ? string : null }>(
      findSnapshots,
      values,
    ),
  );
  const parts = rows.filter((row): row is ExportPart => row.snapshotDate !== null);
  return {
    parts,
    missingDates: rows.filter(row => row.snapshotDate === null).map(row => row.date),
    rowCount: parts.reduce((sum, part) => sum + part.rowCount, 0),
  };
}
