import type { SchemaElement } from 'hyparquet-writer';
import { type ColumnDescription, parquetColumns } from '../column-types.ts';

type Repetition = 'REQUIRED' | 'OPTIONAL';

/** Schema of every Parquet file: the root, then each column with its children. */
export const parquetSchema: SchemaElement[] = [
  { name: 'root', num_children: parquetColumns.length },
  ...parquetColumns.flatMap(elementsOf),
];

function elementsOf({ name, type, nullable }: ColumnDescription): SchemaElement[] {
  const repetition_type = nullable ? 'OPTIONAL' : 'REQUIRED';
  switch (type) {
    case 'string':
      return [text(name, repetition_type)];
    case 'date':
      return [
        {
          name,
          type: 'INT32',
          converted_type: 'DATE',
          logical_type: { type: 'DATE' },
          repetition_type,
        },
      ];
    case 'timestamp':
      return [
        {
          name,
          type: 'INT64',
          converted_type: 'TIMESTAMP_MILLIS',
          logical_type: { type: 'TIMESTAMP', isAdjustedToUTC: true, unit: 'MILLIS' },
          repetition_type,
        },
      ];
    case 'int32':
      return [{ name, type: 'INT32', repetition_type }];
    case 'int64':
      return [{ name, type: 'INT64', repetition_type }];
    case 'list<string>':
      // Names and levels of the standard: readers such as Athena expect exactly these.
      return [
        {
          name,
          converted_type: 'LIST',
          logical_type: { type: 'LIST' },
          repetition_type,
          num_children: 1,
        },
        { name: 'list', repetition_type: 'REPEATED', num_children: 1 },
        text('element', 'REQUIRED'),
      ];
  }
}

function text(name: string, repetition_type: Repetition): SchemaElement {
  return {
    name,
    type: 'BYTE_ARRAY',
    converted_type: 'UTF8',
    logical_type: { type: 'STRING' },
    repetition_type,
  };
}
