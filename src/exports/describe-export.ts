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
   * Size in bytes. Null while a section is not rendered, and for a gzip form that shows a snapshot
   * under another date than its own.
   */
  readonly sizeBytes: number | null;
}

/** Version of the CSV format. Change it when equal rows shall give other bytes. */
const csvVersion = 'csv 1';

export function describePlan(plan: ExportPlan, compression: Compression): ExportDescription {
  const completed = plan.sections.map(({ completedAt }) => completedAt.getTime());
  return {
    plan,
    contentHash: hashContent(plan, compression),
    lastModified: completed.length === 0 ? null : new Date(Math.max(...completed)),
    sizeBytes: sizeOf(plan, compression),
  };
}

/**
 * Returns true if a section shows a snapshot under another date than its own. Its stored chunks
 * then differ from its bytes in the file.
 */
export function isShownElsewhere({ date, snapshotDate }: ExportSection): boolean {
  return date !== snapshotDate;
}

function hashContent(plan: ExportPlan, compression: Compression): string {
  const sections = plan.sections.map(section => {
    const { date, version, rendered } = section;
    if (compression === 'none') return [date, version];
    // This process deflates sections that have no stored chunks for their date.
    const isDeflatedHere = rendered === null || isShownElsewhere(section);
    return [date, version, isDeflatedHere ? renderer : rendered.renderer];
  });
  const content = [
    csvVersion,
    compression,
    ...(compression === 'none' ? [] : [renderer]),
    sections,
  ];
  return createHash('sha256').update(JSON.stringify(content)).digest('hex');
}

function sizeOf({ sections }: ExportPlan, compression: Compression): number | null {
  let size = compression === 'none' ? Buffer.byteLength(headerLine) : gzipFrameBytes;
  for (const section of sections) {
    const { rendered } = section;
    if (rendered === null) return null;
    if (compression === 'gzip' && isShownElsewhere(section)) return null;
    size += compression === 'none' ? rendered.plainBytes : rendered.deflatedBytes;
  }
  return size;
}
