/**
 * Defines the data model: 18 columns in this order with this spelling (docs/file-format.md). The
 * validation of an ingest and the exported files are derived from this table.
 */

/** Longest id in bytes. A key of two such ids and an environment id fits into an index page. */
const maxIdBytes = 1024;

/** Column that a snapshot stores and a body must have. */
export type StoredColumn = {
  readonly header: string;
  /** Name in `snapshot_rows`. */
  readonly name: string;
} /** A text that is neither null nor empty. */ & (
  | { readonly kind: 'id'; readonly maxBytes: number }
  | { readonly kind: 'text'; readonly nullable: boolean }
  /** An ISO 8601 instant of the years 0001 to 9999, stored with milliseconds. */
  | { readonly kind: 'instant'; readonly nullable: boolean }
  /** Digit from `min` to `max`. If `max` is null, a whole number of at most 18 digits. */
  | {
      readonly kind: 'integer';
      readonly nullable: boolean;
      readonly min: number;
      readonly max: number | null;
    }
  /**
   * Items joined by commas. An item with a comma, a quote or a line break is quoted. `pairedWith`
   * names the list that must have the same number of items. Items then hold no commas.
   */
  | { readonly kind: 'list'; readonly pairedWith: string | null }
);

export type Column =
  | StoredColumn
  /** Date of the snapshot. An ingest checks it. Rows do not store it. */
  | { readonly header: string; readonly kind: 'shown-date' }
  /** Label of the number in column `of`. An ingest ignores it. `none` is the label of null. */
  | {
      readonly header: string;
      readonly kind: 'label';
      readonly of: string;
      readonly labels: Readonly<Record<number, string>>;
      readonly none: string | null;
    };

export const columns: readonly Column[] = [
  { header: 'Company ID', kind: 'id', name: 'company_id', maxBytes: maxIdBytes },
  { header: 'Company Name', kind: 'text', name: 'company_name', nullable: true },
  { header: 'Feature Name', kind: 'text', name: 'feature_name', nullable: false },
  { header: 'Feature ID', kind: 'id', name: 'feature_id', maxBytes: maxIdBytes },
  { header: 'Date', kind: 'shown-date' },
  { header: 'First Seen', kind: 'instant', name: 'first_seen', nullable: false },
  { header: 'Last Seen', kind: 'instant', name: 'last_seen', nullable: false },
  { header: 'First Used', kind: 'instant', name: 'first_used', nullable: true },
  { header: 'Last Used', kind: 'instant', name: 'last_used', nullable: true },
  {
    header: 'STARS State Label',
    kind: 'label',
    of: 'stars_state',
    labels: { 1: 'never', 2: 'tried', 3: 'retained', 4: 'churned' },
    none: null,
  },
  { header: 'STARS State', kind: 'integer', name: 'stars_state', nullable: false, min: 1, max: 4 },
  {
    header: 'Frequency Label',
    kind: 'label',
    of: 'frequency',
    labels: { 0: 'never', 1: 'monthly', 2: 'weekly', 3: 'daily' },
    none: null,
  },
  { header: 'Frequency', kind: 'integer', name: 'frequency', nullable: false, min: 0, max: 3 },
  {
    header: 'Satisfaction Label',
    kind: 'label',
    of: 'satisfaction',
    labels: {
      1: 'very dissatisfied',
      2: 'dissatisfied',
      3: 'neutral',
      4: 'satisfied',
      5: 'very satisfied',
    },
    none: 'not rated',
  },
  { header: 'Satisfaction', kind: 'integer', name: 'satisfaction', nullable: true, min: 1, max: 5 },
  {
    header: 'Feedback Count',
    kind: 'integer',
    name: 'feedback_count',
    nullable: false,
    min: 0,
    max: null,
  },
  { header: 'Segment Names', kind: 'list', name: 'segment_names', pairedWith: null },
  { header: 'Segment IDs', kind: 'list', name: 'segment_ids', pairedWith: 'segment_names' },
];

export const storedColumns: readonly StoredColumn[] = columns.filter(
  column => column.kind !== 'shown-date' && column.kind !== 'label',
);

/** First line of every exported file. */
export const headerLine = `${columns.map(column => column.header).join(',')}\n`;
