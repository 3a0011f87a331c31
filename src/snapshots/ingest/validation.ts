import { Quoting } from '../../shared/csv-scanner.ts';
import { parseInstant } from '../../shared/parse-instant.ts';
import type { Column } from '../columns.ts';
import type { RowBuffer } from './row-buffer.ts';

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

type NullableColumn = Extract<Column, { readonly nullable: boolean }>;

/** Returns the state of the two lists of a record, which their rules update. */
export function createLists() {
  return { names: { count: 0, hasComma: false }, ids: { count: 0, hasComma: false } };
}
type Lists = ReturnType<typeof createLists>;
/** `count` is the number of items; -1 if the field is not a list. */
type List = Lists['ids'];

const missing = 'is missing';
const emptyNumber = 'is an empty string; for null leave the field empty, without quotes';
const notAList =
  'is not a list: an item with a comma, a quote or a line break must be quoted inside the list';

const comma = 0x2c;
const quote = 0x22;
const lf = 0x0a;
const cr = 0x0d;
const zero = 0x30;

/** Returns the rule of a column in the snapshot of `date`. The rule of a list updates `lists`. */
export function ruleOf(column: Column, date: string, lists: Lists): FieldRule {
  switch (column.kind) {
    case 'label':
      return () => null;
    case 'shown-date':
      return sameDateRule(date);
    case 'id':
      return idRule(column.maxBytes);
    case 'text':
      return nullableRule(column, writeText);
    case 'instant':
      return nullableRule(column, checkInstant);
    case 'digit':
      return nullableRule(column, digitRule(column.min, column.max));
    case 'count':
      return nullableRule(column, countRule(column.maxDigits));
    case 'names':
    case 'ids':
      return listRule(lists[column.kind]);
  }
}

/** Reports each error of two lists that do not belong together. */
export function compareLists(
  { names, ids }: Lists,
  report: (column: string, message: string) => void,
): void {
  if (names.count === -1 || ids.count === -1) return;
  if (ids.hasComma) report('Segment IDs', 'has an ID with a comma');
  // One item with an empty name looks like an empty list.
  const isPair = ids.count === names.count || (ids.count === 1 && names.count === 0);
  if (!isPair) {
    const items = ids.count === 1 ? '1 item' : `${ids.count} items`;
    report('Segment IDs', `has ${items} where Segment Names has ${names.count}`);
  }
}

/** Returns a rule that accepts the date or nothing. It writes nothing: the row has the date. */
function sameDateRule(date: string): FieldRule {
  const expected = Buffer.from(date);
  return (_out, source, from, to) =>
    from === to || expected.equals(source.subarray(from, to))
      ? null
      : `is not the date of this snapshot, ${date}`;
}

/** Returns a rule that reads an empty field without quotes as null. */
function nullableRule(column: NullableColumn, rule: FieldRule): FieldRule {
  const { kind, nullable } = column;
  return (out, source, from, to, quoting) => {
    if (from === to && quoting === Quoting.none) {
      if (!nullable) return missing;
      out.writeNull();
      return null;
    }
    if (from === to && nullable && kind !== 'text') return emptyNumber;
    return rule(out, source, from, to, quoting);
  };
}

const writeText: FieldRule = (out, source, from, to, quoting) => {
  out.writeText(source, from, to, quoting);
  return null;
};

function idRule(maxBytes: number): FieldRule {
  const tooLong = `is longer than ${maxBytes} bytes`;
  return (out, source, from, to, quoting) => {
    const length = out.writeText(source, from, to, quoting);
    if (length === 0) return missing;
    return length > maxBytes ? tooLong : null;
  };
}

const checkInstant: FieldRule = (out, source, from, to) => {
  const ms = parseInstant(source, from, to);
  if (typeof ms === 'string') return ms;
  out.writeInstant(ms);
  return null;
};

function digitRule(min: number, max: number): FieldRule {
  const message = `is not a whole number from ${min} to ${max}`;
  return (out, source, from, to) => {
    const digit = (source[from] ?? 0) - zero;
    if (to - from !== 1 || digit < min || digit > max) return message;
    out.writeInt16(digit);
    return null;
  };
}

/** Returns a rule for a number that may exceed a safe integer, so two halves are computed. */
function countRule(maxDigits: number): FieldRule {
  const message = `is not a whole number of 0 or more with at most ${maxDigits} digits`;
  return (out, source, from, to) => {
    const length = to - from;
    if (length === 0 || length > maxDigits || (length > 1 && source[from] === zero)) return message;
    let [high, low] = [0, 0];
    for (let at = from; at < to; at += 1) {
      const digit = (source[at] ?? 0) - zero;
      if (digit < 0 || digit > 9) return message;
      if (at < to - 9) high = high * 10 + digit;
      else low = low * 10 + digit;
    }
    out.writeInt64(high, 1_000_000_000, low);
    return null;
  };
}

/** Returns a rule for a list. Null and an empty string are both the empty list. */
function listRule(list: List): FieldRule {
  return (out, source, from, to, quoting) => {
    const length = out.writeText(source, from, to, quoting);
    readItems(list, out.bytes, out.at - length, out.at);
    return list.count === -1 ? notAList : null;
  };
}

function readItems(list: List, bytes: Buffer, from: number, to: number): void {
  let count = from === to ? 0 : 1;
  let isQuoted = false;
  list.count = -1;
  list.hasComma = false;
  for (let at = from; at < to; at += 1) {
    const byte = bytes[at];
    if (byte === quote) {
      // Outer quotes are beside a comma or an end of the list, doubled quotes beside each other.
      const beside = isQuoted ? at + 1 : at - 1;
      const isOuter = beside < from || beside === to || bytes[beside] === comma;
      if (!isOuter && bytes[beside] !== quote) return;
      isQuoted = !isQuoted;
    } else if (byte === comma) {
      if (isQuoted) list.hasComma = true;
      else count += 1;
    } else if (!isQuoted && (byte === lf || byte === cr)) return;
  }
  if (!isQuoted) list.count = count;
}
