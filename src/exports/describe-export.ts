import { createHash } from 'node:crypto';
import type { Compression } from '../shared/file-format.ts';
import { headerLine } from '../snapshots/columns.ts';
import { renderer } from '../snapshots/render/chunks.ts';
import { gzipFrameBytes } from './gzip-file.ts';
import type { ExportPlan, ExportSection } from './plan-export.ts';

/** Properties of a file that are known before its first byte. */
export interface ExportDescription {
  readonly plan: ExportPlan;
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

/** File with fixed content. Its bytes are read at the pace of the reader. */
export interface OpenExport extends ExportDescription {
  /**
   * Streams the file. May be called once. An incomplete stream always ends with an error.
   * @param range allowed only if `sizeBytes` is not null; `end` is inclusive
   */
  bytes(range?: { readonly start: number; readonly end: number }): AsyncGenerator<Buffer>;
  /** Stops reading and cancels the running query. May be called at any time. */
  close(): void;
}

/** Version of the CSV format. Change it when equal rows shall give other bytes. */
const csvVersion = 'csv 1';

/** Describes the CSV of a plan. */
export function describePlan(plan: ExportPlan, compression: Compression): ExportDescription {
  const completed = plan.sections.map(({ completedAt }) => completedAt.getTime());
  const lengths = plan.sections.map(section => sectionLength(section, compression));
  const frameBytes = compression === 'none' ? Buffer.byteLength(headerLine) : gzipFrameBytes;
  return {
    plan,
    contentHash: hashContent(plan, compression),
    lastModified: completed.length === 0 ? null : new Date(Math.max(...completed)),
    sizeBytes: lengths.reduce(
      (sum, length) => (sum === null || length === null ? null : sum + length),
      frameBytes,
    ),
  };
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

function hashContent(plan: ExportPlan, compression: Compression): string {
  const sections = plan.sections.map(section => {
    const { date, version, rendered } = section;
    if (compression === 'none') return [date, version];
    // This process deflates sections that have no stored chunks for their date.
    const isDeflatedHere = rendered === null || isShownElsewhere(section);
    return [date, version, isDeflatedHere ? renderer : rendered.renderer];
  });
  const content = [csvVersion, compression, ...(compression === 'none' ? [] : [renderer])];
  return createHash('sha256')
    .update(JSON.stringify([...content, sections]))
    .digest('hex');
}
