import type { Column, StoredColumn } from '../columns.ts';
import { Quoting } from './csv-scanner.ts';
import { parseInstant } from './parse-instant.ts';
import {
  type RowBuffer,
  writeInstant,
  writeInt16,
  writeInt64,
  writeNull,
  writeText,
} from './row-buffer.ts';

/**
 * Checks the field from `from` to `to` of `source` and writes its value to `out`.
 *
 * @returns an error message, or null
 */
export type FieldRule = (
  out: RowBuffer,
  source: Buffer,
  from: number,
  to: number,
  quoting: number,
) => string | null;

/**
 * Rule for several fields of one record. Runs after the rules of the fields, if these found no
 * error.
 */
export interface RecordRule {
  readonly header: string;
  /** Reports each error. */
  check(fault: (message: string) => void): void;
}

export interface Validation {
  /** Rule of each field of the body, in its order; null for an ignored field. */
  readonly fields: readonly (FieldRule | null)[];
  readonly records: readonly RecordRule[];
}

const missing = 'is missing';
const emptyNumber = 'is an empty string; for null leave the field empty, without quotes';
const notAList =
  'is not a list: an item with a comma, a quote or a line break must be quoted inside the list';

const comma = 0x2c;
const quote = 0x22;
const lf = 0x0a;
const cr = 0x0d;
const zero = 0x30;

/** Creates the validation of a body from the table of columns. */
export function createValidation(header: readonly Column[], date: string): Validation {
  const lists = new Map<string, ListItems>();
  const fields = header.map(column => {
    if (column.kind === 'label') return null;
    if (column.kind === 'shown-date') return sameDateRule(date);
    if (column.kind !== 'list') return fieldRule(column);
    const items: ListItems = { count: 0, hasComma: false };
    lists.set(column.name, items);
    return listRule(items);
  });
  const records = header.flatMap(column => {
    if (column.kind !== 'list' || column.pairedWith === null) return [];
    const [items, paired] = [lists.get(column.name), lists.get(column.pairedWith)];
    const other = header.find(one => one.kind === 'list' && one.name === column.pairedWith);
    if (items === undefined || paired === undefined || other === undefined) return [];
    return [pairRule(column.header, items, other.header, paired)];
  });
  return { fields, records };
}

function fieldRule(column: Exclude<StoredColumn, { kind: 'list' }>): FieldRule {
  switch (column.kind) {
    case 'id':
      return idRule(column.maxBytes);
    case 'text':
      return textRule(column.nullable);
    case 'instant':
      return nullableRule(column.nullable, instantRule);
    case 'integer':
      return nullableRule(column.nullable, integerRule(column.min, column.max));
  }
}

function idRule(maxBytes: number): FieldRule {
  return (out, source, from, to, quoting) => {
    const length = writeText(out, source, from, to, quoting === Quoting.escaped);
    if (length === 0) return missing;
    return length > maxBytes ? `is longer than ${maxBytes} bytes` : null;
  };
}

function textRule(isNullable: boolean): FieldRule {
  return (out, source, from, to, quoting) => {
    if (from === to && quoting === Quoting.none) {
      if (!isNullable) return missing;
      writeNull(out);
      return null;
    }
    writeText(out, source, from, to, quoting === Quoting.escaped);
    return null;
  };
}

function nullableRule(isNullable: boolean, rule: FieldRule): FieldRule {
  return (out, source, from, to, quoting) => {
    if (from !== to) return rule(out, source, from, to, quoting);
    if (!isNullable)
      return quoting === Quoting.none ? missing : rule(out, source, from, to, quoting);
    if (quoting !== Quoting.none) return emptyNumber;
    writeNull(out);
    return null;
  };
}

function instantRule(out: RowBuffer, source: Buffer, from: number, to: number): string | null {
  const ms = parseInstant(source, from, to);
  if (typeof ms === 'string') return ms;
  writeInstant(out, ms);
  return null;
}

function integerRule(min: number, max: number | null): FieldRule {
  if (max === null) return (out, source, from, to) => unboundedInteger(out, source, from, to, min);
  return (out, source, from, to) => {
    const digit = (source[from] ?? 0) - zero;
    if (to - from !== 1 || digit < min || digit > max) {
      return `is not a whole number from ${min} to ${max}`;
    }
    writeInt16(out, digit);
    return null;
  };
}

function unboundedInteger(
  out: RowBuffer,
  source: Buffer,
  from: number,
  to: number,
  min: number,
): string | null {
  const length = to - from;
  const isShape = length > 0 && length <= 18 && (length === 1 || source[from] !== zero);
  const split = to - 9;
  let high = 0;
  let low = 0;
  for (let at = from; isShape && at < to; at += 1) {
    const digit = (source[at] ?? 0) - zero;
    if (digit < 0 || digit > 9) return `is not a whole number of ${min} or more`;
    if (at < split) high = high * 10 + digit;
    else low = low * 10 + digit;
  }
  if (!isShape) return `is not a whole number of ${min} or more`;
  writeInt64(out, high, low);
  return null;
}

/** Items that a list rule found in the current record. */
interface ListItems {
  /** -1 if the field is not a list. */
  count: number;
  /** True if an item holds a comma. */
  hasComma: boolean;
}

/** Returns a rule for a list. Null and an empty string are both the empty list. */
function listRule(items: ListItems): FieldRule {
  return (out, source, from, to, quoting) => {
    const length = writeText(out, source, from, to, quoting === Quoting.escaped);
    readItems(items, out.bytes, out.at - length, out.at);
    return items.count === -1 ? notAList : null;
  };
}

function readItems(items: ListItems, bytes: Buffer, from: number, to: number): void {
  items.count = from === to ? 0 : 1;
  items.hasComma = false;
  for (let at = from; at < to; at += 1) {
    const byte = bytes[at];
    if (byte === comma) items.count += 1;
    else if (byte === quote) {
      at = readQuotedItem(items, bytes, at, from, to);
      if (items.count === -1) return;
    } else if (byte === lf || byte === cr) {
      items.count = -1;
      return;
    }
  }
}

/** Returns the position of the closing quote of the item that opens at `open`. */
function readQuotedItem(
  items: ListItems,
  bytes: Buffer,
  open: number,
  from: number,
  to: number,
): number {
  let at = open + 1;
  for (; at < to; at += 1) {
    const byte = bytes[at];
    if (byte === comma) items.hasComma = true;
    if (byte !== quote) continue;
    if (at + 1 < to && bytes[at + 1] === quote) at += 1;
    else break;
  }
  const isWhole = at < to && (at + 1 === to || bytes[at + 1] === comma);
  if (!isWhole || (open !== from && bytes[open - 1] !== comma)) items.count = -1;
  return at;
}

function pairRule(
  header: string,
  items: ListItems,
  pairedHeader: string,
  paired: ListItems,
): RecordRule {
  return {
    header,
    check(fault) {
      if (items.count === -1 || paired.count === -1) return;
      if (items.hasComma) fault('has an ID with a comma');
      // One item with an empty name looks like an empty list.
      const isPair = items.count === paired.count || (paired.count === 0 && items.count === 1);
      if (!isPair) fault(`has ${items.count} items where ${pairedHeader} has ${paired.count}`);
    },
  };
}

/**
 * Returns a rule for the column Date. It accepts an empty field, and writes nothing, because the
 * row already has the date.
 */
function sameDateRule(date: string): FieldRule {
  const expected = Buffer.from(date);
  return (_out, source, from, to) => {
    if (from === to || expected.equals(source.subarray(from, to))) return null;
    return `is not the date of this snapshot, ${date}`;
  };
}
