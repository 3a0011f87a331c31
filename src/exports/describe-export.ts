import { createHash } from 'node:crypto';
import { withSpan } from '../observability/tracing.ts';
import type { Compression, FileForm } from '../shared/file-format.ts';
import { secondOf } from '../shared/iso-date.ts';
import { headerLine } from '../snapshots/columns.ts';
import { renderer } from '../snapshots/render/chunks.ts';
import type { ShownDate } from './aggregations.ts';
import { parquetColumns } from './column-types.ts';
import { type ExportSection, findSections, type Queryable } from './find-sections.sql.ts';
import { gzipFrameBytes } from './gzip-file.ts';
import { parquetRenderer } from './parquet/renderer.ts';

/** Content and form of a file. */
export interface WantedExport extends FileForm {
  readonly environmentId: string;
  readonly dates: readonly ShownDate[];
}

/** Properties of a file that are known before its first byte. */
export interface ExportDescription extends WantedExport {
  /** Sections in the order of the file. */
  readonly sections: readonly ExportSection[];
  /** Dates without a snapshot. */
  readonly missingDates: readonly string[];
  readonly rowCount: number;
  /** Hash in lower-case hex. Files with equal hashes have equal bytes in every process. */
  readonly contentHash: string;
  /** Time at which the newest snapshot of the file was completed; null for a file without rows. */
  readonly lastModified: Date | null;
  /** True if the snapshots of these dates cannot have changed since `lastModified`. */
  readonly isDated: boolean;
  /**
   * Size in bytes. Null while a section is not rendered, for a gzip form that shows a snapshot
   * under another date than its own, and for Parquet.
   */
  readonly sizeBytes: number | null;
}

/** Version of the CSV format. Change it when equal rows shall give other bytes. */
const csvVersion = 'csv 1';

/**
 * Describes a file without reading its rows. The registry of complete snapshots has the snapshot of
 * each date.
 */
export async function describeExport(
  db: Queryable,
  wanted: WantedExport,
): Promise<ExportDescription> {
  const sections = await withSpan('read the registry', { 'whx.dates': wanted.dates.length }, () =>
    findSections(db, wanted.environmentId, wanted.dates),
  );
  return describeSections(wanted, sections);
}

/** Describes a file that consists of these sections. */
export function describeSections(
  wanted: WantedExport,
  sections: readonly ExportSection[],
): ExportDescription {
  const { format, compression } = wanted;
  const found = new Set(sections.map(({ date }) => date));
  const newest = new Date(Math.max(...sections.map(({ completedAt }) => completedAt.getTime())));
  const lengths = sections.map(section => sectionLength(section, compression));
  const frameBytes = compression === 'none' ? Buffer.byteLength(headerLine) : gzipFrameBytes;
  return {
    ...wanted,
    sections,
    missingDates: wanted.dates.map(({ date }) => date).filter(date => !found.has(date)),
    rowCount: sections.reduce((sum, section) => sum + section.rowCount, 0),
    contentHash: hashContent(wanted, sections),
    lastModified: sections.length === 0 ? null : newest,
    isDated: sections.every(
      ({ undatedUntil }) => undatedUntil === null || secondOf(undatedUntil) < secondOf(newest),
    ),
    sizeBytes: lengths.reduce(
      (sum, length) => (sum === null || length === null ? null : sum + length),
      format === 'csv' ? frameBytes : null,
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

/** Returns the length of a section in a CSV; null while it is unknown. */
export function sectionLength(section: ExportSection, compression: Compression): number | null {
  const { rendered } = section;
  if (rendered === null) return null;
  if (compression === 'none') return rendered.plainBytes;
  return isShownElsewhere(section) ? null : rendered.deflatedBytes;
}

function hashContent(
  { format, compression }: FileForm,
  sections: readonly ExportSection[],
): string {
  const hashed = sections.map(section => {
    const { date, version, rendered } = section;
    if (compression === 'none') return [date, version];
    // This process deflates sections that have no stored chunks for their date.
    const isDeflatedHere = rendered === null || isShownElsewhere(section);
    return [date, version, isDeflatedHere ? renderer : rendered.renderer];
  });
  const deflation = compression === 'none' ? [] : [renderer];
  const csv = hash([csvVersion, compression, ...deflation, hashed]);
  return format === 'csv' ? csv : hash([parquetRenderer, parquetColumns, csv]);
}

function hash(content: readonly unknown[]): string {
  return createHash('sha256').update(JSON.stringify(content)).digest('hex');
}
