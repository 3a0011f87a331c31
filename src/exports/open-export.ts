import type { Pool } from 'pg';
import { borrow, type Lease, lease } from '../db/borrow.ts';
import { currentSpan, endSpanWithStream } from '../observability/tracing.ts';
import { headerLine } from '../snapshots/columns.ts';
import {
  describeCsv,
  type ExportDescription,
  isRendered,
  sectionLength,
  type WantedExport,
} from './describe-export.ts';
import { createGzipTrailer, gzipStart } from './gzip-file.ts';
import { convertToParquet, describeParquet } from './parquet/convert-export.ts';
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
  /**
   * Takes a place for a file with a section that is not rendered. Called before the file takes a
   * connection of `sessionPool`. Returns a function that releases the place; called at the close.
   */
  readonly takeSession: () => () => void;
}

/** Describes a file without reading it. */
export async function describeExport(
  { exportPool }: ExportSource,
  wanted: WantedExport,
): Promise<ExportDescription> {
  const csv = await describeCsv(exportPool, wanted);
  return wanted.format === 'csv' ? csv : describeParquet(csv);
}

/** Opens a file. A Parquet file is converted from the rows of the CSV. */
export async function openExport(
  source: ExportSource,
  wanted: WantedExport,
  options: OpenOptions,
): Promise<OpenExport> {
  const csv = await openCsv(source, wanted, options);
  if (wanted.format === 'csv') return csv;
  const bytes = () => convertToParquet(csv, options.takePlace, options.signal);
  return { ...describeParquet(csv), bytes, close: csv.close };
}

/**
 * Opens a CSV, plain or as gzip.
 *
 * Rendered sections are read chunk by chunk in short queries, because a version never changes. If
 * any section is not rendered, the registry and the rows are read in one transaction.
 */
async function openCsv(
  exports: ExportSource,
  wanted: WantedExport,
  { signal, takeSession }: OpenOptions,
): Promise<OpenExport> {
  const { environmentId, compression } = wanted;
  // The bytes are read after this span has ended.
  const parent = currentSpan();
  const closing = new AbortController();
  const closed = AbortSignal.any([signal, closing.signal]);
  const close = () => closing.abort(new Error('The export was closed before its end.'));
  const opening = openView(exports, wanted, closed, takeSession);
  const [description, session] = await opening.catch((error: unknown) => {
    close();
    throw error;
  });
  const source: SectionSource = {
    environmentId,
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
    for (const section of description.sections) {
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

  return {
    ...description,
    close,
    async *bytes({ start, end } = wholeFile) {
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

/**
 * Describes a CSV that is about to be read.
 * @param signal also closes the session and releases its place
 * @returns also the transaction in which it was described; null if all sections are rendered
 */
async function openView(
  { exportPool, sessionPool }: ExportSource,
  wanted: WantedExport,
  signal: AbortSignal,
  takeSession: OpenOptions['takeSession'],
): Promise<[ExportDescription, Lease | null]> {
  const described = await borrow(exportPool, signal, client => describeCsv(client, wanted));
  if (isRendered(described)) return [described, null];
  signal.throwIfAborted();
  signal.addEventListener('abort', takeSession(), { once: true });
  const session = await lease(sessionPool, signal);
  await session.client.query(`
    begin isolation level repeatable read read only;
    set local statement_timeout = 0`);
  const inSession = await describeCsv(session.client, wanted);
  if (!isRendered(inSession)) return [inSession, session];
  // The last rendering ended between the two reads of the registry.
  await endSession(session);
  return [inSession, null];
}

async function endSession({ client, release }: Lease): Promise<void> {
  await client.query('commit');
  release();
}
