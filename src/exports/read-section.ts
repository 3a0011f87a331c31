import type { PoolClient } from 'pg';
import type { Compression } from '../shared/file-format.ts';
import { mapAhead } from '../shared/map-ahead.ts';
import {
  type Chunk,
  deflateChunk,
  type FreshChunk,
  inflateChunk,
  makeChunks,
} from '../snapshots/render/chunks.ts';
import { copyRows } from '../snapshots/render/copy-rows.ts';
import {
  findChunk,
  type RenderedSnapshot,
  readChunks,
  type WithClient,
} from '../snapshots/render/read-chunks.ts';
import { replaceDates } from '../snapshots/render/records.ts';
import { isShownElsewhere, sectionLength } from './describe-export.ts';
import type { GzipTrailer } from './gzip-file.ts';
import type { ExportSection } from './plan-export.ts';

/** Range of bytes. `end` is exclusive. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/** Source of the sections of one file. */
export interface SectionSource {
  readonly environmentId: string;
  readonly compression: Compression;
  /** Connection in a transaction of one read view; null if all sections are rendered. */
  readonly session: PoolClient | null;
  readonly withClient: WithClient;
}

/** Number of chunks that are inflated or deflated in advance. */
const chunksAhead = 1;

/** Streams a range of a section as plain rows. Of unknown length, it is streamed whole. */
export async function* plainSection(
  source: SectionSource,
  section: ExportSection,
  range: ByteRange,
): AsyncGenerator<Buffer> {
  if (section.rendered === null) yield* unrenderedRows(source, section);
  else
    yield* renderedBytes(source, section, range, chunks =>
      mapAhead(chunks, chunksAhead, chunk => inflateShown(section, chunk)),
    );
}

/**
 * Streams a range of a section as deflated rows and adds the checksum of the whole section to the
 * trailer. Of unknown length, it is streamed whole.
 */
export async function* deflatedSection(
  source: SectionSource,
  section: ExportSection,
  range: ByteRange,
  trailer: GzipTrailer,
): AsyncGenerator<Buffer> {
  const { rendered } = section;
  if (rendered === null) {
    yield* freshBytes(makeChunks(unrenderedRows(source, section)), trailer);
  } else if (isShownElsewhere(section)) {
    const chunks = storedChunks(source, section, 0);
    const shown = mapAhead(chunks, chunksAhead, async chunk =>
      deflateChunk(await inflateShown(section, chunk)),
    );
    yield* freshBytes(shown, trailer);
  } else {
    trailer.add(rendered.crc32, rendered.plainBytes);
    yield* renderedBytes(source, section, range, async function* deflatedOf(chunks) {
      for await (const { deflated } of chunks) yield deflated;
    });
  }
}

async function* freshBytes(
  chunks: AsyncIterable<FreshChunk>,
  trailer: GzipTrailer,
): AsyncGenerator<Buffer> {
  for await (const { deflated, plainCrc32, plainBytes } of chunks) {
    trailer.add(plainCrc32, plainBytes);
    yield deflated;
  }
}

/** Streams a range of a rendered section. Skips the chunks before the range. */
async function* renderedBytes(
  source: SectionSource,
  section: ExportSection,
  range: ByteRange,
  transform: (chunks: AsyncGenerator<Chunk>) => AsyncGenerator<Buffer>,
): AsyncGenerator<Buffer> {
  const length = sectionLength(section, source.compression) ?? 0;
  const { start, end } = range;
  if (start >= end) return;
  const form = source.compression === 'none' ? 'plain' : 'deflated';
  const first =
    start === 0
      ? { index: 0, start: 0 }
      : await findChunk(source.withClient, storedSnapshot(source, section), form, start);
  let at = first.start;
  for await (const bytes of transform(storedChunks(source, section, first.index))) {
    const next = at + bytes.length;
    if (next > length) break;
    const wanted = bytes.subarray(Math.max(start - at, 0), Math.min(end - at, bytes.length));
    at = next;
    if (wanted.length > 0) yield wanted;
    if (at >= end) return;
  }
  throw new Error(
    `Snapshot version ${section.version} of ${source.environmentId}: ` +
      `the chunks are not ${length} ${form} bytes long.`,
  );
}

function storedSnapshot(source: SectionSource, section: ExportSection): RenderedSnapshot {
  const { version, rendered } = section;
  if (rendered === null) throw new Error(`Snapshot version ${version} is not rendered.`);
  return { environmentId: source.environmentId, version, ...rendered };
}

function storedChunks(
  source: SectionSource,
  section: ExportSection,
  first: number,
): AsyncGenerator<Chunk> {
  const snapshot = storedSnapshot(source, section);
  const { session, withClient } = source;
  // A file with a session reads everything on that connection, one statement at a time.
  return session === null
    ? readChunks(withClient, snapshot, { first, ahead: 1 })
    : readChunks(work => work(session), snapshot, { first, ahead: 0 });
}

function unrenderedRows(
  { session, environmentId }: SectionSource,
  { snapshotDate, date: shownDate, rowCount }: ExportSection,
): AsyncGenerator<Buffer> {
  if (session === null) throw new Error('A section that is not rendered needs a session.');
  return copyRows(session, { environmentId, snapshotDate, shownDate, rowCount });
}

async function inflateShown(section: ExportSection, chunk: Chunk): Promise<Buffer> {
  const plain = await inflateChunk(chunk);
  return isShownElsewhere(section)
    ? replaceDates(plain, section.snapshotDate, section.date)
    : plain;
}
