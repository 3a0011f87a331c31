import { pipeline, Readable } from 'node:stream';
import { format } from 'fast-csv';
import { adoptionAt } from './adoption.ts';
import { companiesAt, segmentsAt } from './companies.ts';
import { listFeatures } from './features.ts';
import type { Story } from './story.ts';

/** Columns of the body of `PUT …/snapshots/{date}`, by the names of its header. */
export const snapshotHeader = [
  'Company ID',
  'Company Name',
  'Feature ID',
  'Feature Name',
  'First Seen',
  'Last Seen',
  'First Used',
  'Last Used',
  'STARS State',
  'Frequency',
  'Satisfaction',
  'Feedback Count',
  'Segment Names',
  'Segment IDs',
] as const;

/** One value for each column of the header. Null becomes an empty field without quotes. */
type SnapshotRow = readonly (string | number | null)[];

/**
 * Yields the rows of the story at one instant, ordered by company and feature. Only one row is in
 * memory at a time.
 */
export function* snapshotRows(story: Story, instant: number): Generator<SnapshotRow> {
  const features = listFeatures(story);
  for (const company of companiesAt(story, instant)) {
    const segments = segmentsAt(story, company, instant);
    const names = formatList(segments.names);
    const ids = formatList(segments.ids);
    for (const feature of features) {
      const adoption = adoptionAt(story, company, feature, instant);
      if (adoption === null) continue;
      yield [
        company.id,
        company.name,
        feature.id,
        feature.name,
        formatInstant(adoption.firstSeen),
        formatInstant(adoption.lastSeen),
        formatInstant(adoption.firstUsed),
        formatInstant(adoption.lastUsed),
        adoption.starsState,
        adoption.frequency,
        adoption.satisfaction,
        adoption.feedbackCount,
        names,
        ids,
      ];
    }
  }
}

/** Returns a CSV body for `PUT …/snapshots/{date}`. Rows are generated while it is read. */
export function snapshotCsv(story: Story, instant: number): Readable {
  // fast-csv writes null and '' alike, and its quoting options cannot distinguish them. With
  // `quote: false` it leaves fields as they are, so the transform writes the final form.
  const csv = format<SnapshotRow, string[]>({
    headers: [...snapshotHeader],
    alwaysWriteHeaders: true,
    includeEndRowDelimiter: true,
    quote: false,
    transform: (row: SnapshotRow) => row.map(formatField),
  });
  // The reader of `csv` receives every error; pipeline needs a callback.
  return pipeline(Readable.from(snapshotRows(story, instant)), csv, () => {});
}

function formatField(value: string | number | null): string {
  if (value === null) return '';
  if (value === '') return '""';
  return quoteWhereNeeded(String(value));
}

function formatList(items: readonly string[]): string {
  return items.map(quoteWhereNeeded).join(',');
}

function quoteWhereNeeded(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function formatInstant(instant: number | null): string | null {
  return instant === null ? null : new Date(instant).toISOString();
}
