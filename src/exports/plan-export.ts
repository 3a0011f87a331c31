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
  readonly rendered: RenderedSection | null;
}

export interface RenderedSection {
  readonly plainBytes: number;
  readonly deflatedBytes: number;
  readonly chunkCount: number;
  /** CRC-32 of the plain rows. */
  readonly crc32: number;
  /** Versions of the rendering code and of zlib. */
  readonly renderer: string;
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
const findSnapshots = `
  select shown.date, found.snapshot_date as "snapshotDate", found.version,
    found.row_count as "rowCount", found.completed_at as "completedAt",
    rendered.plain_bytes as "plainBytes", rendered.deflated_bytes as "deflatedBytes",
    rendered.chunk_count as "chunkCount", rendered.crc32, rendered.renderer
  from unnest($2::date[], $3::date[]) as shown (date, first)
  left join lateral (
    select snapshot_date, version, row_count, completed_at
    from snapshots
    where environment_id = $1
      and snapshot_date <= shown.date
      and snapshot_date >= coalesce(shown.first, '-infinity')
    order by snapshot_date desc
    limit 1
  ) as found on true
  left join rendered_snapshots as rendered
    on rendered.environment_id = $1 and rendered.version = found.version
  order by shown.date`;

type Nullable<T> = { readonly [K in keyof T]: T[K] | null };
type FoundRow = { readonly date: string } & Nullable<Omit<ExportSection, 'date' | 'rendered'>> &
  Nullable<RenderedSection>;

/** Selects the snapshot of each date from the registry of complete snapshots. */
export async function planExport(
  db: Queryable,
  environmentId: string,
  dates: readonly ShownDate[],
): Promise<ExportPlan> {
  const values = [environmentId, dates.map(shown => shown.date), dates.map(shown => shown.from)];
  const { rows } = await withSpan('read the registry', { 'whx.dates': dates.length }, () =>
    db.query<FoundRow>(findSnapshots, values),
  );
  const sections = rows.map(toSection).filter(section => section !== null);
  return {
    sections,
    missingDates: rows.filter(row => row.version === null).map(row => row.date),
    rowCount: sections.reduce((sum, section) => sum + section.rowCount, 0),
  };
}

function toSection(row: FoundRow): ExportSection | null {
  const { date, snapshotDate, version, rowCount, completedAt, ...rendered } = row;
  if (version === null) return null;
  const found = { date, snapshotDate, version, rowCount, completedAt } as ExportSection;
  return {
    ...found,
    rendered: rendered.renderer === null ? null : (rendered as RenderedSection),
  };
}
