import type { PoolClient } from 'pg';
import { mapAhead } from '../shared/map-ahead.ts';
import { type Chunk, inflateChunk, makeChunks } from '../snapshots/render/chunks.ts';
import { copyRows } from '../snapshots/render/copy-rows.sql.ts';
import { findChunk, readChunks, type WithClient } from '../snapshots/render/read-chunks.sql.ts';
import { replaceDates } from '../snapshots/render/records.ts';
import { isShownElsewhere } from './describe-export.ts';
import type { ExportSection } from './find-sections.sql.ts';
import type { GzipTrailer } from './gzip-file.ts';

/** Range of bytes. `end` is exclusive. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/** Range of every byte, for files and sections of unknown length. */
export const wholeFile: ByteRange = { start: 0, end: Number.POSITIVE_INFINITY };

/** Source of the sections of one file. */
export interface SectionSource {
  readonly environmentId: string;
  /** Connection in a transaction of one read view; null if all sections are rendered. */
  readonly session: PoolClient | null;
  readonly withClient: WithClient;
}

/** Number of chunks that are inflated in advance. A stalled reader keeps them in memory. */
const chunksAhead = 1;

/**
 * Streams a range of a section: plain rows, or deflated rows if there is a trailer. The trailer
 * gets the checksum of the whole section. A section of unknown length is streamed whole.
 */
export async function* readSection(
  source: SectionSource,
  section: ExportSection,
  range: ByteRange,
  trailer: GzipTrailer | null,
): AsyncGenerator<Buffer> {
  const { rendered } = section;
  if (trailer === null) {
    yield* rendered === null
      ? unrenderedRows(source, section)
      : storedBytes(source, section, 'plain', range);
  } else if (rendered !== null && !isShownElsewhere(section)) {
    trailer.add(rendered.crc32, rendered.plainBytes);
    yield* storedBytes(source, section, 'deflated', range);
  } else {
    const rows = readSection(source, section, wholeFile, null);
    for await (const { deflated, plainCrc32, plainBytes } of makeChunks(rows)) {
      trailer.add(plainCrc32, plainBytes);
      yield deflated;
    }
  }
}

/** Streams a range of a rendered section. Skips the chunks before the range. */
async function* storedBytes(
  { withClient }: SectionSource,
  section: ExportSection,
  form: 'plain' | 'deflated',
  { start, end }: ByteRange,
): AsyncGenerator<Buffer> {
  const { version, rendered } = section;
  if (rendered === null) throw new Error(`Snapshot version ${version} is not rendered.`);
  const length = form === 'plain' ? rendered.plainBytes : rendered.deflatedBytes;
  if (start >= Math.min(end, length)) return;
  const first =
    start === 0 ? { index: 0, start: 0 } : await findChunk(withClient, rendered, form, start);
  const chunks = readChunks(withClient, rendered, first.index);
  const pieces =
    form === 'plain'
      ? mapAhead(chunks, chunksAhead, chunk => inflateShown(section, chunk))
      : mapAhead(chunks, 0, async ({ deflated }) => deflated);
  let at = first.start;
  for await (const bytes of pieces) {
    const next = at + bytes.length;
    if (next > length) break;
    const wanted = bytes.subarray(Math.max(start - at, 0), Math.min(end - at, bytes.length));
    at = next;
    if (wanted.length > 0) yield wanted;
    if (at >= Math.min(end, length)) return;
  }
  throw new Error(
    `Snapshot version ${version} of ${rendered.environmentId}: ` +
      `the chunks are not ${length} ${form} bytes long.`,
  );
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
