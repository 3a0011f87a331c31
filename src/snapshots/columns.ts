/**
 * Defines the data model: 18 columns in this order with this spelling (docs/file-format.md). The
 * validation of an ingest and the exported files are derived from this table.
 */

/** Column that a snapshot stores and a body must have. */
export type StoredColumn = { readonly header: string } /** Text of 1 to `maxBytes` bytes. */ & (
  | { readonly kind: 'id'; readonly maxBytes: number }
  | { readonly kind: 'text'; readonly nullable: boolean }
  /** An ISO 8601 instant of the years 0001 to 9999, stored with milliseconds. */
  | { readonly kind: 'instant'; readonly nullable: boolean }
  /** Whole number of one digit, from `min` to `max`. */
  | {
      readonly kind: 'digit';
      readonly nullable: boolean;
      readonly min: number;
      readonly max: number;
    }
  /** Whole number of 0 or more, with at most `maxDigits` digits. */
  | { readonly kind: 'count'; readonly nullable: false; readonly maxDigits: number }
  /** Items joined by commas. An item with a comma, a quote or a line break is quoted. */
  | { readonly kind: 'names' }
  /** List with an item for each item of `names`. The items hold no commas. */
  | { readonly kind: 'ids' }
);

export type Column =
  | StoredColumn
  /** Date of the snapshot. An ingest checks it. Rows do not store it. */
  | { readonly header: string; readonly kind: 'shown-date' }
  /** Label of the digit in column `of`. An ingest ignores it. `none` is the label of null. */
  | {
      readonly header: string;
      readonly kind: 'label';
      readonly of: string;
      readonly labels: Readonly<Record<number, string>>;
      readonly none?: string;
    };

const starsLabels = { 1: 'never', 2: 'tried', 3: 'retained', 4: 'churned' };
const frequencyLabels = { 0: 'never', 1: 'monthly', 2: 'weekly', 3: 'daily' };
const satisfactionLabels = {
  1: 'very dissatisfied',
  2: 'dissatisfied',
  3: 'neutral',
  4: 'satisfied',
  5: 'very satisfied',
};

/** A key of two such ids and an environment id fits into an index page of Postgres. */
const maxIdBytes = 1024;

export const columns: readonly Column[] = [
  { header: 'Company ID', kind: 'id', maxBytes: maxIdBytes },
  { header: 'Company Name', kind: 'text', nullable: true },
  { header: 'Feature Name', kind: 'text', nullable: false },
  { header: 'Feature ID', kind: 'id', maxBytes: maxIdBytes },
  { header: 'Date', kind: 'shown-date' },
  { header: 'First Seen', kind: 'instant', nullable: false },
  { header: 'Last Seen', kind: 'instant', nullable: false },
  { header: 'First Used', kind: 'instant', nullable: true },
  { header: 'Last Used', kind: 'instant', nullable: true },
  { header: 'STARS State Label', kind: 'label', of: 'stars_state', labels: starsLabels },
  { header: 'STARS State', kind: 'digit', nullable: false, min: 1, max: 4 },
  { header: 'Frequency Label', kind: 'label', of: 'frequency', labels: frequencyLabels },
  { header: 'Frequency', kind: 'digit', nullable: false, min: 0, max: 3 },
  {
    header: 'Satisfaction Label',
    kind: 'label',
    of: 'satisfaction',
    labels: satisfactionLabels,
    none: 'not rated',
  },
  { header: 'Satisfaction', kind: 'digit', nullable: true, min: 1, max: 5 },
  // A bigint holds every number of 18 digits.
  { header: 'Feedback Count', kind: 'count', nullable: false, maxDigits: 18 },
  { header: 'Segment Names', kind: 'names' },
  { header: 'Segment IDs', kind: 'ids' },
];

/** Returns true for a column that a snapshot stores. */
export function isStored(column: Column): column is StoredColumn {
  return column.kind !== 'shown-date' && column.kind !== 'label';
}

/** Returns the name of a column in `snapshot_rows` and in Parquet files, such as `company_id`. */
export function columnName({ header }: Column): string {
  return header.toLowerCase().replaceAll(' ', '_');
}

/** First line of every exported file. */
export const headerLine = `${columns.map(column => column.header).join(',')}\n`;
