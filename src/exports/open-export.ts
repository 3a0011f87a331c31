import type { Pool } from 'pg';
import { borrow } from '../db/borrow.ts';
import { currentSpan, endSpanWithStream } from '../observability/tracing.ts';
import type { Compression } from '../shared/file-format.ts';
import { headerLine } from '../snapshots/columns.ts';
import type { ShownDate } from './aggregations.ts';
import { describePlan, type ExportDescription } from './describe-export.ts';
import { createGzipTrailer, gzipStart } from './gzip-file.ts';
import { type ExportPlan, planExport } from './plan-export.ts';
import {
  type ByteRange,
  deflatedSection,
  plainSection,
  type SectionSource,
  sectionLength,
} from './read-section.ts';
import { openReadSession, type ReadSession } from './read-session.ts';

export type { ExportDescription } from './describe-export.ts';

const plainStart = Buffer.from(headerLine);

export interface ExportSource {
  /** Pool of short queries. */
  readonly exportPool: Pool;
  /**
   * Pool of files with a section that is not rendered. Each holds a connection while it is read.
   */
  readonly sessionPool: Pool;
}

/** File with fixed content. Its bytes are read at the pace of the reader. */
export interface OpenExport extends ExportDescription {
  /**
   * Streams the CSV with its header line, plain or as gzip. May be called once. An incomplete
   * stream always ends with an error.
   * @param range allowed only if `sizeBytes` is not null; `end` is inclusive
   */
  bytes(range?: { readonly start: number; readonly end: number }): AsyncGenerator<Buffer>;
  /** Stops reading and cancels the running query. May be called at any time. */
  close(): void;
}

interface OpenOptions {
  readonly compression: Compression;
  /** Closes the export at once, also while the database sorts. */
  readonly signal: AbortSignal;
}

/** Describes the file of these dates without reading it. */
export async function describeExport(
  { exportPool }: ExportSource,
  environmentId: string,
  dates: readonly ShownDate[],
  compression: Compression,
): Promise<ExportDescription> {
  return describePlan(await planExport(exportPool, environmentId, dates), compression);
}

/**
 * Opens the file of these dates.
 *
 * Rendered sections are read chunk by chunk in short queries, because a version never changes. If a
 * section is not rendered, the whole file is read in one transaction on one connection. The
 * registry is read in that transaction too.
 */
export async function openExport(
  exports: ExportSource,
  environmentId: string,
  dates: readonly ShownDate[],
  { compression, signal }: OpenOptions,
): Promise<OpenExport> {
  // The bytes are read after this span has ended.
  const parent = currentSpan();
  const closing = new AbortController();
  const closed = AbortSignal.any([signal, closing.signal]);
  const close = () => closing.abort(new Error('The export was closed before its end.'));
  const { plan, session } = await openView(exports, environmentId, dates, closed);
  const source: SectionSource = {
    environmentId,
    compression,
    session,
    withClient: work => borrow(exports.exportPool, closed, work),
  };

  /** Streams all pieces of the file, or those in the range. */
  async function* pieces(range: ByteRange | null): AsyncGenerator<Buffer> {
    const trailer = compression === 'gzip' ? createGzipTrailer() : null;
    let at = 0;
    /** Returns the part of the range within the next piece, or null for the whole piece. */
    const within = (length: number | null): ByteRange | null => {
      if (range === null || length === null) return null;
      const start = Math.min(Math.max(range.start - at, 0), length);
      const end = Math.max(Math.min(range.end - at, length), start);
      at += length;
      return { start, end };
    };
    const cut = (bytes: Buffer) => {
      const wanted = within(bytes.length);
      return wanted === null ? bytes : bytes.subarray(wanted.start, wanted.end);
    };
    yield cut(trailer === null ? plainStart : gzipStart);
    for (const section of plan.sections) {
      const wanted = within(sectionLength(section, compression));
      const span = parent.begin('section', {
        'whx.section.date': section.date,
        'whx.section.rows': section.rowCount,
        'whx.section.rendered': section.rendered !== null,
      });
      yield* endSpanWithStream(
        span,
        trailer === null
          ? plainSection(source, section, wanted)
          : deflatedSection(source, section, wanted, trailer),
      );
    }
    if (trailer !== null) yield cut(trailer.bytes());
  }

  return {
    ...describePlan(plan, compression),
    close,
    async *bytes(range) {
      try {
        closed.throwIfAborted();
        // `end` is inclusive in ranges of a file and exclusive in ranges of its pieces.
        for await (const piece of pieces(range ? { start: range.start, end: range.end + 1 } : null))
          if (piece.length > 0) yield piece;
        await session?.end();
      } finally {
        close();
      }
    },
  };
}

interface View {
  readonly plan: ExportPlan;
  /** Session in which the file is read; null if all sections are rendered. */
  readonly session: ReadSession | null;
}

async function openView(
  { exportPool, sessionPool }: ExportSource,
  environmentId: string,
  dates: readonly ShownDate[],
  signal: AbortSignal,
): Promise<View> {
  const isRendered = ({ sections }: ExportPlan) =>
    sections.every(({ rendered }) => rendered !== null);
  const plan = await borrow(exportPool, signal, client => planExport(client, environmentId, dates));
  if (isRendered(plan)) return { plan, session: null };
  const session = await openReadSession(sessionPool, signal);
  try {
    const plan = await planExport(session.client, environmentId, dates);
    if (!isRendered(plan)) return { plan, session };
    // The last rendering ended between the two reads of the registry.
    await session.end();
    return { plan, session: null };
  } catch (error) {
    session.close();
    throw error;
  }
}
