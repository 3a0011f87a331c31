import type { Pool } from 'pg';
import { borrow, type Lease, lease } from '../db/borrow.ts';
import { currentSpan, endSpanWithStream, type Span } from '../observability/tracing.ts';
import type { ConcurrencyLimit } from '../shared/concurrency-limit.ts';
import { headerLine } from '../snapshots/columns.ts';
import {
  describeExport,
  type ExportDescription,
  isRendered,
  sectionLength,
} from './describe-export.ts';
import { createGzipTrailer, gzipStart } from './gzip-file.ts';
import { convertToParquet } from './parquet/convert-export.ts';
import type { ParquetPlace } from './parquet/places.ts';
import { type ByteRange, readSection, type SectionSource, wholeFile } from './read-section.ts';

const plainStart = Buffer.from(headerLine);

export interface ExportSource {
  /** Pool of short queries. */
  readonly exportPool: Pool;
  /**
   * Pool of files with a section that is not rendered. Each holds a connection while it is read.
   */
  readonly sessionPool: Pool;
  /** Limits these files; null if the pool has a connection for each. */
  readonly sessionLimit: ConcurrencyLimit | null;
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

interface OpenOptions {
  /** Closes the export at once, also while the database sorts. */
  readonly signal: AbortSignal;
  /** Takes a place for a conversion to Parquet. Called when the first byte is read. */
  readonly takePlace: () => ParquetPlace;
}

/**
 * Opens a described file. A Parquet file is converted from the rows of the CSV.
 *
 * Rendered sections are read chunk by chunk in short queries, because a version never changes. If
 * any section is not rendered, the file is described again, and read, in one transaction.
 *
 * @throws AppError `too_many_downloads` if `sessionLimit` is reached
 */
export async function openExport(
  exports: ExportSource,
  described: ExportDescription,
  { signal, takePlace }: OpenOptions,
): Promise<OpenExport> {
  // The bytes are read after this span has ended.
  const parent = currentSpan();
  const closing = new AbortController();
  const closed = AbortSignal.any([signal, closing.signal]);
  const close = () => closing.abort(new Error('The export was closed before its end.'));
  const opening = openView(exports, described, closed);
  const [description, session] = await opening.catch((error: unknown) => {
    close();
    throw error;
  });
  const source: SectionSource = {
    environmentId: description.environmentId,
    session: session?.client ?? null,
    withClient: work => borrow(exports.exportPool, closed, work),
  };
  const csv: OpenExport = {
    ...description,
    close,
    async *bytes({ start, end } = wholeFile) {
      try {
        closed.throwIfAborted();
        // `end` is inclusive in ranges of a file and exclusive in ranges of its pieces.
        const range = { start, end: end + 1 };
        for await (const piece of readPieces(source, description, range, parent))
          if (piece.length > 0) yield piece;
        if (session !== null) await endSession(session);
      } finally {
        close();
      }
    },
  };
  if (description.format === 'csv') return csv;
  return { ...csv, bytes: () => convertToParquet(csv, takePlace, signal) };
}

/**
 * Describes a file again in a transaction of one read view if a section is not rendered.
 * @param signal closes the session and releases its place
 * @returns also the transaction; null if all sections are rendered
 */
async function openView(
  { sessionPool, sessionLimit }: ExportSource,
  described: ExportDescription,
  signal: AbortSignal,
): Promise<[ExportDescription, Lease | null]> {
  if (isRendered(described)) return [described, null];
  signal.throwIfAborted();
  const release = sessionLimit?.acquire(described.environmentId);
  if (release !== undefined) signal.addEventListener('abort', release, { once: true });
  const session = await lease(sessionPool, signal);
  await session.client.query(`
    begin isolation level repeatable read read only;
    set local statement_timeout = 0`);
  const description = await describeExport(session.client, described);
  if (!isRendered(description)) return [description, session];
  // The last rendering ended between the two reads of the registry.
  await endSession(session);
  return [description, null];
}

async function endSession({ client, release }: Lease): Promise<void> {
  await client.query('commit');
  release();
}

/** Streams the pieces of a CSV that are in the range. Some may be empty. */
async function* readPieces(
  source: SectionSource,
  { sections, compression }: ExportDescription,
  range: ByteRange,
  parent: Span,
): AsyncGenerator<Buffer> {
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
  for (const section of sections) {
    const part = within(sectionLength(section, compression));
    const span = parent.begin('section', {
      'whx.section.date': section.date,
      'whx.section.rows': section.rowCount,
      'whx.section.rendered': section.rendered !== null,
    });
    yield* endSpanWithStream(span, readSection(source, section, part, trailer));
  }
  if (trailer !== null) yield cut(trailer.bytes());
}
