import { snapshotRows } from './generate-snapshots.ts';
import { type Story, snapshotDates, snapshotInstant } from './story.ts';

export interface Estimate {
  readonly rows: number;
  /** Bytes of all snapshots as CSV. */
  readonly csvBytes: number;
}

const sampledCompanies = 400;
const sampledFeatures = 20;
const sampledDates = 5;

/** Estimates the size of a story from a smaller one with fewer companies, features and dates. */
export function estimateStory(story: Story, now: Date): Estimate {
  const sample = {
    ...story,
    companies: Math.min(story.companies, sampledCompanies),
    features: Math.min(story.features, sampledFeatures),
  };
  const dates = snapshotDates(story);
  const last = dates.length - 1;
  let rows = 0;
  let csvBytes = 0;
  for (let index = 0; index < sampledDates; index += 1) {
    const date = dates[Math.round((index * last) / (sampledDates - 1))] ?? '';
    for (const row of snapshotRows(sample, snapshotInstant(date, now))) {
      rows += 1;
      csvBytes += Buffer.byteLength(row.join(',')) + 1;
    }
  }
  const factor =
    ((dates.length / sampledDates) * story.companies * story.features) /
    (sample.companies * sample.features);
  return { rows: Math.round(rows * factor), csvBytes: Math.round(csvBytes * factor) };
}
