/** Describes the columns of an exported file for programs that load it. */
import { type Column, columnName, columns } from '../snapshots/columns.ts';

export interface ColumnDescription {
  readonly name: string;
  readonly type: 'string' | 'date' | 'timestamp' | 'int32' | 'int64' | 'list<string>';
  /** True if the column may be null. In CSV, null is an empty field without quotes. */
  readonly nullable: boolean;
}

const types: Record<Column['kind'], ColumnDescription['type']> = {
  id: 'string',
  text: 'string',
  label: 'string',
  'shown-date': 'date',
  instant: 'timestamp',
  digit: 'int32',
  count: 'int64',
  names: 'list<string>',
  ids: 'list<string>',
};

/** Columns of a CSV file in its order. */
export const csvColumns: readonly ColumnDescription[] = columns.map(column =>
  describe(column, column.header),
);

/**
 * Columns of a Parquet file in its order, such as `company_id`. Their names contain no spaces,
 * because Spark and Athena refuse them.
 */
export const parquetColumns: readonly ColumnDescription[] = columns.map(column =>
  describe(column, columnName(column)),
);

function describe(column: Column, name: string): ColumnDescription {
  const nullable = 'nullable' in column && column.nullable;
  return { name, type: types[column.kind], nullable };
}
