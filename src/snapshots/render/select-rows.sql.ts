import {
  DummyDriver,
  Kysely,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  type RawBuilder,
  sql,
} from 'kysely';
import { escapeLiteral } from 'pg';
import type { Tables } from '../../db/tables.ts';
import { type Column, columnName, columns } from '../columns.ts';

/** Compiles statements only. COPY runs the SELECT on another connection. */
const builder = new Kysely<Tables>({
  dialect: {
    createAdapter: () => new PostgresAdapter(),
    createDriver: () => new DummyDriver(),
    createIntrospector: db => new PostgresIntrospector(db),
    createQueryCompiler: () => new PostgresQueryCompiler(),
  },
});

/**
 * Returns the COPY statement that writes the rows of a snapshot as CSV in byte order, without a
 * header line. COPY takes no bind parameters, so a function of the driver quotes the values.
 *
 * @param shownDate value of the Date column
 */
export function selectRows(environmentId: string, snapshotDate: string, shownDate: string): string {
  const query = builder
    .selectFrom('snapshot_rows')
    .select(columns.map(column => selectColumn(column, shownDate).as(column.header)))
    .where('environment_id', '=', literal<string>(environmentId))
    .where('snapshot_date', '=', literal<string>(snapshotDate))
    .orderBy('company_id')
    .orderBy('feature_id')
    .compile();
  if (query.parameters.length > 0) throw new Error('COPY takes no bind parameters.');
  return `copy (${query.sql}) to stdout (format csv)`;
}

function selectColumn(column: Column, shownDate: string): RawBuilder<unknown> {
  switch (column.kind) {
    case 'shown-date':
      return literal(shownDate);
    case 'instant':
      return sql.raw(renderInstant(columnName(column)));
    case 'label':
      return selectLabel(column.of, column.labels, column.none);
    default:
      return sql`${sql.ref(columnName(column))}`;
  }
}

function selectLabel(
  name: string,
  labels: Readonly<Record<number, string>>,
  none: string | undefined,
): RawBuilder<unknown> {
  const cases = Object.entries(labels).map(
    ([value, label]) => sql`when ${sql.raw(value)} then ${literal(label)}`,
  );
  const labelOfNull = none === undefined ? sql`` : sql`else ${literal(none)}`;
  return sql`case ${sql.ref(name)} ${sql.join(cases, sql` `)} ${labelOfNull} end`;
}

function literal<T = unknown>(text: string): RawBuilder<T> {
  return sql.raw<T>(escapeLiteral(text));
}

/**
 * Returns SQL that formats a `timestamptz(3)` expression as `2026-01-02T03:04:05.678Z`. Every
 * session of the service is in UTC.
 *
 * JSON output is the cheapest form that has the `T`, but it drops trailing zeros. Adding a
 * microsecond prevents that, and `substr` cuts it off again. With four instants per row this takes
 * a quarter less time than `to_char`.
 */
function renderInstant(expression: string): string {
  return `substr(to_json(${expression} + interval '1 microsecond')::text, 2, 23) || 'Z'`;
}
