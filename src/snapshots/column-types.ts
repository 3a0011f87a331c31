/** Describes the columns of an exported file for programs that load it. */
import { type Column, columns } from './columns.ts';

export interface ColumnDescription {
  /** The column's name in the header line. */
  readonly name: string;
  readonly type: 'string' | 'date' | 'timestamp' | 'int32' | 'int64' | 'list<string>';
  /** True if the column may have no value. In CSV that is an empty field without quotes. */
  readonly nullable: boolean;
}

/** Columns in the order of the file. */
export const csvColumns: readonly ColumnDescription[] = columns.map(column => ({
  name: column.header,
  type: typeOf(column),
  nullable: 'nullable' in column && column.nullable,
}));

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
    case 'integer':
      return column.max === null ? 'int64' : 'int32';
    case 'list':
      return 'list<string>';
  }
}
