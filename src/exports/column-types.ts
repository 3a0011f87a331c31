/** Describes the columns of an exported file for programs that load it. */
import { type Column, columnName, columns } from '../snapshots/columns.ts';

export interface ColumnDescription {
  readonly name: string;
  readonly type: 'string' | 'date' | 'timestamp' | 'int32' | 'int64' | 'list<string>';
  /** True if the column may be null. In CSV, null is an empty field without quotes. */
  readonly nullable: boolean;
}

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
  return { name, type: typeOf(column), nullable: 'nullable' in column && column.nullable };
}

function typeOf(column: Column): ColumnDescription['type'] {
  switch (column.kind) {
    case 'id':
    case 'text':
    case 'label':
      return 'string';
    case 'shown-date':
      return 'date';
    case 'instant':
      return 'timestamp';
    case 'digit':
      return 'int32';
    case 'count':
      return 'int64';
    case 'names':
    case 'ids':
      return 'list<string>';
  }
}
