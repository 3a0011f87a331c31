import { Quoting } from '../../shared/csv-scanner.ts';
import { parseInstant } from '../../shared/parse-instant.ts';
import type { Column } from '../columns.ts';
import type { RowBuffer } from './row-buffer.ts';

/**
 * Checks the field from `from` to `to` of `source` and writes its value to `out`.
 *
 * @returns an error message, or null
 */
type FieldRule = (
  out: RowBuffer,
  source: Buffer,
  from: number,
  to: number,
  quoting: number,
) => string | null;

export interface Validation {
  /** Rule of each field of the body, in its order. */
  readonly fields: readonly FieldRule[];
  /** Compares the lists of a record after its field rules. Reports each error. */
  readonly compareLists: (report: (column: string, message: string) => void) => void;
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
  const lists = new Map<string, List>();
  const pairs: (readonly [List, List])[] = [];
  const ruleOf = (column: Column): FieldRule => {
    switch (column.kind) {
      case 'label':
        return () => null;
      case 'shown-date':
        return sameDateRule(date);
      case 'id':
        return idRule(column.maxBytes);
      case 'text':
        return textRule(column.nullable);
      case 'instant':
        return nullableRule(column.nullable, instantRule);
      case 'integer':
        return nullableRule(column.nullable, integerRule(column.min, column.max));
      case 'list': {
        const list: List = { header: column.header, count: 0, hasComma: false };
        lists.set(column.name, list);
        return listRule(list);
      }
    }
  };
  const fields = header.map(ruleOf);
  for (const column of header) {
    if (column.kind !== 'list' || column.pairedWith === null) continue;
    const [list, other] = [lists.get(column.name), lists.get(column.pairedWith)];
    if (list !== undefined && other !== undefined) pairs.push([list, other]);
  }
  return {
    fields,
    compareLists(report) {
      for (const [list, other] of pairs) {
        if (list.count === -1 || other.count === -1) continue;
        if (list.hasComma) report(list.header, 'has an ID with a comma');
        // One item with an empty name looks like an empty list.
        const isPair = list.count === other.count || (other.count === 0 && list.count === 1);
        if (!isPair)
          report(list.header, `has ${list.count} items where ${other.header} has ${other.count}`);
      }
    },
  };
}

function idRule(maxBytes: number): FieldRule {
  return (out, source, from, to, quoting) => {
    const length = out.writeText(source, from, to, quoting === Quoting.escaped);
    if (length === 0) return missing;
    return length > maxBytes ? `is longer than ${maxBytes} bytes` : null;
  };
}

function textRule(isNullable: boolean): FieldRule {
  return (out, source, from, to, quoting) => {
    if (from !== to || quoting !== Quoting.none) {
      out.writeText(source, from, to, quoting === Quoting.escaped);
      return null;
    }
    if (!isNullable) return missing;
    out.writeNull();
    return null;
  };
}

function nullableRule(isNullable: boolean, rule: FieldRule): FieldRule {
  return (out, source, from, to, quoting) => {
    if (from !== to) return rule(out, source, from, to, quoting);
    if (!isNullable)
      return quoting === Quoting.none ? missing : rule(out, source, from, to, quoting);
    if (quoting !== Quoting.none) return emptyNumber;
    out.writeNull();
    return null;
  };
}

function instantRule(out: RowBuffer, source: Buffer, from: number, to: number): string | null {
  const ms = parseInstant(source, from, to);
  if (typeof ms === 'string') return ms;
  out.writeInstant(ms);
  return null;
}

function integerRule(min: number, max: number | null): FieldRule {
  if (max === null) return unboundedRule(`is not a whole number of ${min} or more`);
  return (out, source, from, to) => {
    const digit = (source[from] ?? 0) - zero;
    if (to - from !== 1 || digit < min || digit > max)
      return `is not a whole number from ${min} to ${max}`;
    out.writeInt16(digit);
    return null;
  };
}

/** Returns a rule for at most 18 digits. They exceed a number, so two halves are computed. */
function unboundedRule(message: string): FieldRule {
  return (out, source, from, to) => {
    const length = to - from;
    if (length === 0 || length > 18 || (length > 1 && source[from] === zero)) return message;
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

/** List of the current record. */
interface List {
  readonly header: string;
  /** Number of items; -1 if the field is not a list. */
  count: number;
  /** True if an item holds a comma. */
  hasComma: boolean;
}

/** Returns a rule for a list. Null and an empty string are both the empty list. */
function listRule(list: List): FieldRule {
  return (out, source, from, to, quoting) => {
    const length = out.writeText(source, from, to, quoting === Quoting.escaped);
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
