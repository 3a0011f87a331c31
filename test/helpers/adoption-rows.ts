/** Rows of a snapshot and their CSV by docs/file-format.md. Shares no code with the service. */

export interface AdoptionRow {
  readonly companyId: string;
  readonly companyName: string | null;
  readonly featureId: string;
  readonly featureName: string;
  readonly firstSeen: string;
  readonly lastSeen: string;
  readonly firstUsed: string | null;
  readonly lastUsed: string | null;
  readonly starsState: 1 | 2 | 3 | 4;
  readonly frequency: 0 | 1 | 2 | 3;
  readonly satisfaction: 1 | 2 | 3 | 4 | 5 | null;
  readonly feedbackCount: number;
  readonly segmentNames: readonly string[];
  readonly segmentIds: readonly string[];
}

export const exportHeader =
  'Company ID,Company Name,Feature Name,Feature ID,Date,First Seen,Last Seen,First Used,Last Used,' +
  'STARS State Label,STARS State,Frequency Label,Frequency,Satisfaction Label,Satisfaction,Feedback Count,' +
  'Segment Names,Segment IDs\n';

/** Columns that the body of an ingest must have. */
export const ingestColumns = [
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
export type IngestColumn = (typeof ingestColumns)[number];

export function adoptionRow(row: Partial<AdoptionRow> = {}): AdoptionRow {
  return {
    companyId: 'c1',
    companyName: 'Acme',
    featureId: 'f1',
    featureName: 'Export',
    firstSeen: '2025-11-01T09:00:00.000Z',
    lastSeen: '2026-03-01T23:59:59.999Z',
    firstUsed: null,
    lastUsed: null,
    starsState: 1,
    frequency: 0,
    satisfaction: null,
    feedbackCount: 0,
    segmentNames: [],
    segmentIds: [],
    ...row,
  };
}

/** Returns a field as raw CSV. */
export function csvField(value: string | number | null): string {
  if (value === null) return '';
  const text = String(value);
  return text === '' || /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const listItem = (item: string) =>
  /[",\r\n]/.test(item) ? `"${item.replaceAll('"', '""')}"` : item;
export const csvList = (items: readonly string[]) => items.map(listItem).join(',');

const stars = { 1: 'never', 2: 'tried', 3: 'retained', 4: 'churned' };
const frequencies = { 0: 'never', 1: 'monthly', 2: 'weekly', 3: 'daily' };
const satisfactions = {
  1: 'very dissatisfied',
  2: 'dissatisfied',
  3: 'neutral',
  4: 'satisfied',
  5: 'very satisfied',
};

/** Returns a body for PUT. Fields in `raw` replace the CSV of a field, including its quotes. */
export function ingestBody(rows: readonly AdoptionRow[]): string {
  return `${ingestColumns.join(',')}\n${rows.map(row => ingestLine(row)).join('')}`;
}

export function ingestLine(
  row: AdoptionRow,
  raw: Partial<Record<IngestColumn, string>> = {},
): string {
  const fields: Record<IngestColumn, string> = {
    'Company ID': csvField(row.companyId),
    'Company Name': csvField(row.companyName),
    'Feature ID': csvField(row.featureId),
    'Feature Name': csvField(row.featureName),
    'First Seen': csvField(row.firstSeen),
    'Last Seen': csvField(row.lastSeen),
    'First Used': csvField(row.firstUsed),
    'Last Used': csvField(row.lastUsed),
    'STARS State': csvField(row.starsState),
    Frequency: csvField(row.frequency),
    Satisfaction: csvField(row.satisfaction),
    'Feedback Count': csvField(row.feedbackCount),
    'Segment Names': csvField(csvList(row.segmentNames)),
    'Segment IDs': csvField(csvList(row.segmentIds)),
    ...raw,
  };
  return `${ingestColumns.map(column => fields[column]).join(',')}\n`;
}

/** Returns the line of a row in an exported file. */
export function exportLine(row: AdoptionRow, date: string): string {
  const fields = [
    row.companyId,
    row.companyName,
    row.featureName,
    row.featureId,
    date,
    row.firstSeen,
    row.lastSeen,
    row.firstUsed,
    row.lastUsed,
    stars[row.starsState],
    row.starsState,
    frequencies[row.frequency],
    row.frequency,
    row.satisfaction === null ? 'not rated' : satisfactions[row.satisfaction],
    row.satisfaction,
    row.feedbackCount,
    csvList(row.segmentNames),
    csvList(row.segmentIds),
  ];
  return `${fields.map(csvField).join(',')}\n`;
}

/** Returns the section of one snapshot, in byte order of company and feature. */
export function exportPart(rows: readonly AdoptionRow[], date: string): string {
  const inBytes = (left: string, right: string) =>
    Buffer.compare(Buffer.from(left), Buffer.from(right));
  return [...rows]
    .sort(
      (left, right) =>
        inBytes(left.companyId, right.companyId) || inBytes(left.featureId, right.featureId),
    )
    .map(row => exportLine(row, date))
    .join('');
}
