import { pipeline, Readable } from 'node:stream';
import { format } from 'fast-csv';
import { adoptionAt } from './adoption.ts';
import { companiesAt, segmentsAt } from './companies.ts';
import { listFeatures } from './features.ts';
import type { Story } from './story.ts';

/** The columns that a load needs, as `PUT …/snapshots/{date}` names them. */
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

/** One value for each column of the header; null is an empty field without quotes. */
type SnapshotRow = readonly (string | number | null)[];

/** The rows of the story at one instant, ordered by company and feature: one at a time, nothing is held. */
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

/** The same as a CSV body for `PUT …/snapshots/{date}`. Rows are made as they are read. */
export function snapshotCsv(story: Story, instant: number): Readable {
  // fast-csv writes null and '' alike, and its quoting options cannot tell them apart. With `quote: false` it leaves
  // fields as they are, so the transform gives each its final form.
  const csv = format<SnapshotRow, string[]>({
    headers: [...snapshotHeader],
    alwaysWriteHeaders: true,
    includeEndRowDelimiter: true,
    quote: false,
    transform: (row: SnapshotRow) => row.map(formatField),
  });
  // The reader of `csv` hears of every error; the callback is there because pipeline asks for one.
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
