import { withSpan } from '../observability/tracing.ts';
import type { ShownDate } from './aggregations.ts';

/** Section of a file: the rows of one date, which come from one snapshot. */
export interface ExportSection {
  /** Value of the Date column. */
  readonly date: string;
  readonly snapshotDate: string;
  /** Differs for every replacement of the snapshot. */
  readonly version: string;
  readonly rowCount: number;
  readonly completedAt: Date;
  /** Rendered form of this version; null while it is not rendered. */
  readonly rendered: {
    readonly plainBytes: number;
    readonly deflatedBytes: number;
    readonly chunkCount: number;
    /** CRC-32 of the plain rows. */
    readonly crc32: number;
    /** Versions of the rendering code and of zlib. */
    readonly renderer: string;
  } | null;
}

/** Content of a file, known before its first byte. */
export interface ExportPlan {
  /** Sections in the order of the file. */
  readonly sections: readonly ExportSection[];
  /** Dates without a snapshot. */
  readonly missingDates: readonly string[];
  readonly rowCount: number;
}

/** Pool, or connection inside a transaction. */
interface Queryable {
  query<R extends object>(text: string, values: unknown[]): Promise<{ rows: R[] }>;
}

/**
 * Parameters: environment ($1), dates ($2), and for each date the earliest day of its snapshot or
 * null ($3).
 */
const findSections = `
  select shown.date, found.snapshot_date as "snapshotDate", found.version,
    found.row_count as "rowCount", found.completed_at as "completedAt",
    (select json_build_object('plainBytes', plain_bytes, 'deflatedBytes', deflated_bytes,
        'chunkCount', chunk_count, 'crc32', crc32, 'renderer', renderer)
      from rendered_snapshots where environment_id = $1 and version = found.version) as rendered
  from unnest($2::date[], $3::date[]) as shown (date, first)
  cross join lateral (
    select snapshot_date, version, row_count, completed_at
    from snapshots
    where environment_id = $1
      and snapshot_date <= shown.date
      and snapshot_date >= coalesce(shown.first, '-infinity')
    order by snapshot_date desc
    limit 1
  ) as found
  order by shown.date`;

/** Selects the snapshot of each date from the registry of complete snapshots. */
export async function planExport(
  db: Queryable,
  environmentId: string,
  shown: readonly ShownDate[],
): Promise<ExportPlan> {
  const dates = shown.map(({ date }) => date);
  const values = [environmentId, dates, shown.map(({ from }) => from)];
  const { rows: sections } = await withSpan(
    'read the registry',
    { 'whx.dates': dates.length },
    () => db.query<ExportSection>(findSections, values),
  );
  return {
    sections,
    missingDates: dates.filter(date => sections.every(section => section.date !== date)),
    rowCount: sections.reduce((sum, section) => sum + section.rowCount, 0),
  };
}
