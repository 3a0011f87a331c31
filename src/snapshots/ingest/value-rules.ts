import type { StoredColumn } from '../columns.ts';
import { instantPattern, isFourDigitYear, parseInstant, renderInstant } from '../instants.ts';

/**
 * What a value must be, as SQL over a staged text column. Each rule says it twice: `accepts` is cheap, for bodies
 * that are all right (it may raise where `fault` gives a message), and `fault` never raises, for finding out why one
 * is not. They must agree: what `accepts` lets through has no `fault`.
 */
export interface ValueRule {
  /** A boolean. */
  readonly accepts: string;
  /** The value as the column's type. */
  readonly value: string;
  /** A message, or null where nothing is wrong. */
  readonly fault: string;
}

/** With two of these and an environment id, a key still fits an index page. */
export const maxIdBytes = 1024;

export function valueRule(column: StoredColumn): ValueRule {
  switch (column.kind) {
    case 'id':
      return idRule(column.name);
    case 'text':
      return column.nullable ? anyText(column.name) : requiredText(column.name);
    case 'instant':
      return optionalIf(column.nullable, column.name, instantRule(column.name));
    case 'integer':
      return optionalIf(
        column.nullable,
        column.name,
        integerRule(column.name, column.min, column.max),
      );
    case 'list':
      return listRule(column.name);
  }
}

function idRule(name: string): ValueRule {
  return {
    accepts: `${name} <> '' and octet_length(${name}) <= ${maxIdBytes}`,
    value: name,
    fault: `case
      when coalesce(${name}, '') = '' then 'is missing'
      when octet_length(${name}) > ${maxIdBytes} then 'is longer than ${maxIdBytes} bytes' end`,
  };
}

function requiredText(name: string): ValueRule {
  return {
    accepts: `${name} is not null`,
    value: name,
    fault: `case when ${name} is null then 'is missing' end`,
  };
}

function anyText(name: string): ValueRule {
  return { accepts: 'true', value: name, fault: 'null::text' };
}

function instantRule(name: string): ValueRule {
  const value = parseInstant(name);
  return {
    // Most bodies bring instants as this service writes them: reading one back is cheaper than any pattern.
    accepts: `(${renderInstant(`${name}::timestamptz(3)`)} = ${name}
      or (${name} ~ '${instantPattern}' and ${isFourDigitYear(value)}))`,
    value,
    fault: `case
      when ${name} is null then 'is missing'
      when ${name} !~ '${instantPattern}'
        then 'is not an ISO-8601 instant with Z or an offset, such as 2026-01-02T03:04:05.678Z'
      when left(${name}, 4) = '0000' then 'is not a day of the calendar'
      when substr(${name}, 9, 2)::int > extract(day from
          (left(${name}, 7) || '-01')::date + interval '1 month' - interval '1 day')
        then 'is not a day of the calendar'
      when not (${isFourDigitYear(value)}) then 'is outside the years 0001 to 9999' end`,
  };
}

function integerRule(name: string, min: number, max: number | null): ValueRule {
  if (max === null) {
    const pattern = '^(0|[1-9][0-9]{0,17})$';
    return {
      accepts: `${name} ~ '${pattern}'`,
      value: `${name}::bigint`,
      fault: `case
        when ${name} is null then 'is missing'
        when ${name} !~ '${pattern}' then 'is not a whole number of ${min} or more' end`,
    };
  }
  const allowed = Array.from({ length: max - min + 1 }, (_, index) => `'${min + index}'`).join(
    ', ',
  );
  return {
    accepts: `${name} in (${allowed})`,
    value: `${name}::smallint`,
    fault: `case
      when ${name} is null then 'is missing'
      when ${name} not in (${allowed}) then 'is not a whole number from ${min} to ${max}' end`,
  };
}

/** null passes; an empty string is no number and no instant, and the message says what to send instead. */
function optionalIf(nullable: boolean, name: string, rule: ValueRule): ValueRule {
  if (!nullable) return rule;
  return {
    accepts: `(${name} is null or ${rule.accepts})`,
    value: rule.value,
    fault: `case
      when ${name} is null then null
      when ${name} = '' then 'is an empty string; for null leave the field empty, without quotes'
      else ${rule.fault} end`,
  };
}

const listPattern = '^([^",\\r\\n]*|"([^"]|"")*")(,([^",\\r\\n]*|"([^"]|"")*"))*$';

function listRule(name: string): ValueRule {
  return {
    accepts: `(${name} is null or ${name} !~ '["\\r\\n]' or ${name} ~ '${listPattern}')`,
    value: `coalesce(${name}, '')`,
    fault: `case when ${name} !~ '${listPattern}'
      then 'is not a list: an item with a comma, a quote or a line break must be quoted inside the list' end`,
  };
}

/** Rules in which columns take part together; a fault is told under `header`. */
export const rowRules: readonly {
  readonly header: string;
  readonly accepts: string;
  readonly fault: string;
}[] = [
  {
    header: 'Segment IDs',
    accepts: idsWithoutCommas(),
    fault: `case when not (${idsWithoutCommas()}) then 'has an ID with a comma' end`,
  },
  {
    header: 'Segment IDs',
    accepts: sameItemCount(),
    fault: `case when not (${sameItemCount()}) then format('has %s items where Segment Names has %s',
      ${itemCount('segment_ids')}, ${itemCount('segment_names')}) end`,
  },
];

function idsWithoutCommas(): string {
  const outside = commaCount(outsideQuotes('segment_ids'));
  return `(coalesce(strpos(segment_ids, '"'), 0) = 0 or ${commaCount('segment_ids')} = ${outside})`;
}

/** One segment whose name is empty looks like no names at all. */
function sameItemCount(): string {
  const [names, ids] = [itemCount('segment_names'), itemCount('segment_ids')];
  return `(${names} = ${ids} or (coalesce(segment_names, '') = '' and ${ids} = 1))`;
}

function itemCount(name: string): string {
  return `case
    when coalesce(${name}, '') = '' then 0
    when strpos(${name}, '"') = 0 then ${commaCount(name)} + 1
    else ${commaCount(outsideQuotes(name))} + 1 end`;
}

function outsideQuotes(name: string): string {
  return `regexp_replace(${name}, '"([^"]|"")*"', '', 'g')`;
}

function commaCount(expression: string): string {
  return `(length(${expression}) - length(replace(${expression}, ',', '')))`;
}
