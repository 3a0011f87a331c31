import type { ClientBase } from 'pg';
import type { RenderedSnapshot } from '../snapshots/render/read-chunks.sql.ts';
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
  /**
   * Newest completion up to which times do not prove that a file of the environment is unchanged;
   * null if all do.
   */
  readonly undatedUntil: Date | null;
  /** Rendered form of this version; null while it is not rendered. */
  readonly rendered: RenderedSection | null;
}

interface RenderedSection extends RenderedSnapshot {
  /** CRC-32 of the plain rows. */
  readonly crc32: number;
  /** Versions of the rendering code and of zlib. */
  readonly renderer: string;
}

/** Pool, or connection inside a transaction. */
export type Queryable = Pick<ClientBase, 'query'>;

/**
 * Parameters: environment ($1), dates ($2), and for each date the earliest day of its snapshot or
 * null ($3).
 */
const selectSections = `
  select shown.date, found.snapshot_date as "snapshotDate", found.version,
    found.row_count as "rowCount", found.completed_at as "completedAt",
    (select completed_until from undated_changes where environment_id = $1) as "undatedUntil",
    (select json_build_object('environmentId', environment_id, 'version', version,
        'plainBytes', plain_bytes, 'deflatedBytes', deflated_bytes,
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

/**
 * Returns the sections of a file, in the order of their dates. A date without a snapshot has none.
 */
export async function findSections(
  db: Queryable,
  environmentId: string,
  dates: readonly ShownDate[],
): Promise<ExportSection[]> {
  const values = [environmentId, dates.map(({ date }) => date), dates.map(({ from }) => from)];
  return (await db.query<ExportSection>(selectSections, values)).rows;
}
