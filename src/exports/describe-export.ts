import { createHash } from 'node:crypto';
import { withSpan } from '../observability/tracing.ts';
import type { Compression, FileForm } from '../shared/file-format.ts';
import { headerLine } from '../snapshots/columns.ts';
import { renderer } from '../snapshots/render/chunks.ts';
import type { ShownDate } from './aggregations.ts';
import { gzipFrameBytes } from './gzip-file.ts';

/** Content and form of a file. */
export interface WantedExport extends FileForm {
  readonly environmentId: string;
  readonly dates: readonly ShownDate[];
}

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

/** Properties of a file that are known before its first byte. */
export interface ExportDescription {
  /** Sections in the order of the file. */
  readonly sections: readonly ExportSection[];
  /** Dates without a snapshot. */
  readonly missingDates: readonly string[];
  readonly rowCount: number;
  /** Hash in lower-case hex. Files with equal hashes have equal bytes in every process. */
  readonly contentHash: string;
  /** Time at which the newest snapshot of the file was completed; null for a file without rows. */
  readonly lastModified: Date | null;
  /**
   * Size in bytes. Null while a section is not rendered, for a gzip form that shows a snapshot
   * under another date than its own, and for Parquet.
   */
  readonly sizeBytes: number | null;
}

/** Pool, or connection inside a transaction. */
interface Queryable {
  query<R extends object>(text: string, values: unknown[]): Promise<{ rows: R[] }>;
}

/** Version of the CSV format. Change it when equal rows shall give other bytes. */
const csvVersion = 'csv 1';

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

/**
 * Describes a CSV, plain or as gzip. The registry of complete snapshots has the snapshot of each
 * date.
 */
export async function describeCsv(
  db: Queryable,
  { environmentId, dates: shown, compression }: WantedExport,
): Promise<ExportDescription> {
  const dates = shown.map(({ date }) => date);
  const values = [environmentId, dates, shown.map(({ from }) => from)];
  const { rows: sections } = await withSpan(
    'read the registry',
    { 'whx.dates': dates.length },
    () => db.query<ExportSection>(findSections, values),
  );
  const completed = sections.map(({ completedAt }) => completedAt.getTime());
  const lengths = sections.map(section => sectionLength(section, compression));
  const frameBytes = compression === 'none' ? Buffer.byteLength(headerLine) : gzipFrameBytes;
  return {
    sections,
    missingDates: dates.filter(date => sections.every(section => section.date !== date)),
    rowCount: sections.reduce((sum, section) => sum + section.rowCount, 0),
    contentHash: hashContent(sections, compression),
    lastModified: completed.length === 0 ? null : new Date(Math.max(...completed)),
    sizeBytes: lengths.reduce(
      (sum, length) => (sum === null || length === null ? null : sum + length),
      frameBytes,
    ),
  };
}

export function isRendered({ sections }: ExportDescription): boolean {
  return sections.every(({ rendered }) => rendered !== null);
}

/**
 * Returns true if a section shows a snapshot under another date than its own. Its stored chunks
 * then differ from its bytes in the file.
 */
export function isShownElsewhere({ date, snapshotDate }: ExportSection): boolean {
  return date !== snapshotDate;
}

/** Returns the length of a section in the file; null while it is unknown. */
export function sectionLength(section: ExportSection, compression: Compression): number | null {
  const { rendered } = section;
  if (rendered === null) return null;
  if (compression === 'none') return rendered.plainBytes;
  return isShownElsewhere(section) ? null : rendered.deflatedBytes;
}

function hashContent(sections: readonly ExportSection[], compression: Compression): string {
  const hashed = sections.map(section => {
    const { date, version, rendered } = section;
    if (compression === 'none') return [date, version];
    // This process deflates sections that have no stored chunks for their date.
    const isDeflatedHere = rendered === null || isShownElsewhere(section);
    return [date, version, isDeflatedHere ? renderer : rendered.renderer];
  });
  const content = [csvVersion, compression, ...(compression === 'none' ? [] : [renderer])];
  return createHash('sha256')
    .update(JSON.stringify([...content, hashed]))
    .digest('hex');
}
