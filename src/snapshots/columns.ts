/**
 * The company data model: 18 columns, in this order, with this spelling (contract, section 7). Loading, checking and
 * exporting are all driven by this one table.
 */

export type Column =
  | { readonly header: string; readonly kind: 'id'; readonly name: string }
  | {
      readonly header: string;
      readonly kind: 'text';
      readonly name: string;
      readonly nullable: boolean;
    }
  | {
      readonly header: string;
      readonly kind: 'instant';
      readonly name: string;
      readonly nullable: boolean;
    }
  | {
      readonly header: string;
      readonly kind: 'integer';
      readonly name: string;
      readonly nullable: boolean;
      readonly min: number;
      readonly max: number | null;
    }
  | { readonly header: string; readonly kind: 'list'; readonly name: string }
  /** The date under which a snapshot is shown; not stored with the row, ignored when loaded. */
  | { readonly header: string; readonly kind: 'shown-date' }
  /** A word for the number in `of`; ignored when loaded. `none` stands for null. */
  | {
      readonly header: string;
      readonly kind: 'label';
      readonly of: string;
      readonly labels: Readonly<Record<number, string>>;
      readonly none: string | null;
    };

/** A column that is stored, so that a body must bring it. `name` is its name in `snapshot_rows`. */
export type StoredColumn = Exclude<Column, { kind: 'shown-date' | 'label' }>;

export const columns: readonly Column[] = [
  { header: 'Company ID', kind: 'id', name: 'company_id' },
  { header: 'Company Name', kind: 'text', name: 'company_name', nullable: true },
  { header: 'Feature Name', kind: 'text', name: 'feature_name', nullable: false },
  { header: 'Feature ID', kind: 'id', name: 'feature_id' },
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
  { header: 'Segment Names', kind: 'list', name: 'segment_names' },
  { header: 'Segment IDs', kind: 'list', name: 'segment_ids' },
];

export const storedColumns: readonly StoredColumn[] = columns.filter(
  column => column.kind !== 'shown-date' && column.kind !== 'label',
);

/** The line that every file begins with. */
export const headerLine = `${columns.map(column => column.header).join(',')}\n`;
