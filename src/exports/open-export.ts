import type { Pool } from 'pg';
import { borrow, type Lease, lease } from '../db/borrow.ts';
import { currentSpan, endSpanWithStream } from '../observability/tracing.ts';
import type { FileForm } from '../shared/file-format.ts';
import { headerLine } from '../snapshots/columns.ts';
import type { ShownDate } from './aggregations.ts';
import {
  describePlan,
  type ExportDescription,
  type OpenExport,
  sectionLength,
} from './describe-export.ts';
import { createGzipTrailer, gzipStart } from './gzip-file.ts';
import { convertToParquet, describeParquet } from './parquet/convert-export.ts';
import type { ParquetPlace } from './parquet/places.ts';
import { type ExportPlan, planExport } from './plan-export.ts';
import {
  type ByteRange,
  deflatedSection,
  plainSection,
  type SectionSource,
} from './read-section.ts';

const plainStart = Buffer.from(headerLine);

export interface ExportSource {
  /** Pool of short queries. */
  readonly exportPool: Pool;
  /**
   * Pool of files with a section that is not rendered. Each holds a connection while it is read.
   */
  readonly sessionPool: Pool;
}

/** Content and form of a file. */
export interface WantedExport extends FileForm {
  readonly environmentId: string;
  readonly dates: readonly ShownDate[];
}

interface OpenOptions {
  /** Closes the export at once, also while the database sorts. */
  readonly signal: AbortSignal;
  /** Takes the place of a conversion to Parquet when the first byte is read. */
  readonly takePlace: () => ParquetPlace;
}

/** Describes a file without reading it. */
export async function describeExport(
  { exportPool }: ExportSource,
  { environmentId, dates, format, compression }: WantedExport,
): Promise<ExportDescription> {
  const csv = describePlan(await planExport(exportPool, environmentId, dates), compression);
  return format === 'csv' ? csv : describeParquet(csv);
}

/** Opens a file. A Parquet file is converted from the rows of the CSV. */
export async function openExport(
  source: ExportSource,
  wanted: WantedExport,
  options: OpenOptions,
): Promise<OpenExport> {
  const csv = await openCsv(source, wanted, options.signal);
  return wanted.format === 'csv' ? csv : convertToParquet(csv, options);
}

/**
 * Opens a CSV, plain or as gzip.
 *
 * Rendered sections are read chunk by chunk in short queries, because a version never changes. If a
 * section is not rendered, the whole file is read in one transaction on one connection. The
 * registry is read in that transaction too.
 */
async function openCsv(
  exports: ExportSource,
  wanted: WantedExport,
  signal: AbortSignal,
): Promise<OpenExport> {
  const { environmentId, compression } = wanted;
  // The bytes are read after this span has ended.
  const parent = currentSpan();
  const closing = new AbortController();
  const closed = AbortSignal.any([signal, closing.signal]);
  const close = () => closing.abort(new Error('The export was closed before its end.'));
  const { plan, session } = await openView(exports, wanted, closed).catch((error: unknown) => {
    close();
    throw error;
  });
  const source: SectionSource = {
    environmentId,
    compression,
    session: session?.client ?? null,
    withClient: work => borrow(exports.exportPool, closed, work),
  };

  /** Streams the pieces of the file that are in the range. */
  async function* pieces(range: ByteRange): AsyncGenerator<Buffer> {
    const trailer = compression === 'gzip' ? createGzipTrailer() : null;
    let at = 0;
    /** Returns the part of the range in the next piece. Its length is null only in a whole file. */
    const within = (length: number | null): ByteRange => {
      const start = Math.max(range.start - at, 0);
      const end = Math.max(Math.min(range.end - at, length ?? Number.POSITIVE_INFINITY), 0);
      at += length ?? 0;
      return { start, end };
    };
    const cut = (bytes: Buffer) => {
      const { start, end } = within(bytes.length);
      return bytes.subarray(start, end);
    };
    yield cut(trailer === null ? plainStart : gzipStart);
    for (const section of plan.sections) {
      const part = within(sectionLength(section, compression));
      const span = parent.begin('section', {
        'whx.section.date': section.date,
        'whx.section.rows': section.rowCount,
        'whx.section.rendered': section.rendered !== null,
      });
      yield* endSpanWithStream(
        span,
        trailer === null
          ? plainSection(source, section, part)
          : deflatedSection(source, section, part, trailer),
      );
    }
    if (trailer !== null) yield cut(trailer.bytes());
  }

  return {
    ...describePlan(plan, compression),
    close,
    async *bytes({ start, end } = { start: 0, end: Number.POSITIVE_INFINITY }) {
      try {
        closed.throwIfAborted();
        // `end` is inclusive in ranges of a file and exclusive in ranges of its pieces.
        for await (const piece of pieces({ start, end: end + 1 }))
          if (piece.length > 0) yield piece;
        if (session !== null) await endSession(session);
      } finally {
        close();
      }
    },
  };
}

interface View {
  readonly plan: ExportPlan;
  /** Transaction in which the file is read; null if all sections are rendered. */
  readonly session: Lease | null;
}

/** @param signal also closes the session */
async function openView(
  { exportPool, sessionPool }: ExportSource,
  { environmentId, dates }: WantedExport,
  signal: AbortSignal,
): Promise<View> {
  const isRendered = ({ sections }: ExportPlan) =>
    sections.every(({ rendered }) => rendered !== null);
  const plan = await borrow(exportPool, signal, client => planExport(client, environmentId, dates));
  if (isRendered(plan)) return { plan, session: null };
  const session = await lease(sessionPool, signal);
  await session.client.query(`
    begin isolation level repeatable read read only;
    set local statement_timeout = 0`);
  const planInSession = await planExport(session.client, environmentId, dates);
  if (!isRendered(planInSession)) return { plan: planInSession, session };
  // The last rendering ended between the two reads of the registry.
  await endSession(session);
  return { plan: planInSession, session: null };
}

async function endSession({ client, release }: Lease): Promise<void> {
  await client.query('commit');
  release();
}
