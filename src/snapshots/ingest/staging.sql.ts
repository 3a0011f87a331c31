import { storedColumns } from '../columns.ts';
import { beginInUtc } from '../instants.ts';
import type { HeaderField } from './match-header.ts';
import { faultLimit } from './snapshot-invalid.ts';
import { rowRules, valueRule } from './value-rules.ts';

/** The SQL of loading: a body is copied as text into a table of its transaction, checked there, and moved over. */

/** $1: date. Makes the partition of a day unless it is there. */
export const ensurePartition = 'select ensure_snapshot_partition($1::date)';

export const beginLoad = `${beginInUtc()}; set local temp_buffers = '32MB'; set local statement_timeout = 0`;

/** $1: the environment and date. Held until the transaction ends; false when another load holds it. */
export const tryLockSnapshot = `select pg_try_advisory_xact_lock(hashtextextended($1, 0)) as locked`;

/** $1: the day's lock. Held until the transaction ends. */
export const shareDay = 'select pg_advisory_xact_lock_shared(hashtextextended($1, 0))';

/** $1: the name of the partition. */
export const isPartitionThere = `
  select exists (
    select from pg_class join pg_inherits on inhrelid = pg_class.oid
    where relname = $1 and inhparent = 'snapshot_rows'::regclass and not inhdetachpending
  ) as there`;

/** In the body's order. `row_number` counts its records from 1. */
export function createStaging(fields: readonly HeaderField[]): string {
  return `
    create temporary table staging (
      row_number bigint generated always as identity (cache 1000),
      ${fieldNames(fields)
        .map(name => `${name} text`)
        .join(', ')}
    ) on commit drop`;
}

export function copyIntoStaging(fields: readonly HeaderField[]): string {
  return `copy staging (${fieldNames(fields).join(', ')}) from stdin (format csv)`;
}

function fieldNames(fields: readonly HeaderField[]): string[] {
  return fields.map((field, index) => field?.name ?? `ignored_${index}`);
}

const names = storedColumns.map(column => column.name);
const rules = storedColumns.map(column => ({ header: column.header, ...valueRule(column) }));
const checks = [...rules, ...rowRules];

/**
 * $1: environment, $2: date. Moves all rows of a body that is plain throughout: what neither a cast nor a constraint of
 * the table refuses is right.
 */
export const movePlainRows = moveRows(
  storedColumns.map(column =>
    column.kind === 'instant' ? `${column.name}::timestamptz(3)` : valueRule(column).value,
  ),
);

/** The same for any body, and only those rows that are all right. Raises where a text is no value at all. */
export const moveAcceptedRows = `${moveRows(rules.map(rule => rule.value))}
  where ${checks.map(check => check.accepts).join('\n    and ')}`;

function moveRows(values: readonly string[]): string {
  return `
  insert into snapshot_rows (environment_id, snapshot_date, ${names.join(', ')})
  select $1, $2::date, ${values.join(', ')}
  from staging`;
}

/** Every fault of every row: the first ${faultLimit} in the body's order, and in `total` how many there are. */
export const findFaults = `
  with faults as (
    select row_number, position, header, message
    from staging cross join lateral (values
      ${checks.map((check, index) => `(${index}, '${check.header}', ${check.fault})`).join(',\n      ')}
    ) as fault (position, header, message)
    where message is not null
    union all
    select row_number, -1, 'Company ID',
      format('stands with the same Feature ID in row %s already', first_row)
    from (
      select row_number, min(row_number) over (partition by company_id, feature_id) as first_row
      from staging
      where company_id <> '' and feature_id <> ''
    ) as keyed
    where row_number > first_row
  )
  select row_number as row, header as column, message, count(*) over () as total
  from faults
  order by row_number, position
  limit ${faultLimit}`;

export const deleteRows = `delete from snapshot_rows where environment_id = $1 and snapshot_date = $2::date`;

/** $1: environment. No row: there is no such environment. Its deletion waits for this transaction, and the reverse. */
export const lockEnvironment = `select from environments where id = $1 for key share`;

/** $1: environment, $2: date, $3: rows, $4: instant. */
export const registerSnapshot = `
  insert into snapshots (environment_id, snapshot_date, row_count, completed_at)
  values ($1, $2::date, $3, $4)
  on conflict (environment_id, snapshot_date) do update
    set version = default, row_count = excluded.row_count, completed_at = excluded.completed_at
  returning version, (xmax = 0) as created`;
