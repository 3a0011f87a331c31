import { parseInstant } from '../../shared/parse-instant.ts';
import type { ColumnDescription } from '../column-types.ts';

/** Value of a field in the form that the Parquet writer takes. */
export type FieldValue = string | number | bigint | string[] | null;

/**
 * Reads the text of a CSV field that is not null.
 * @param isEscaped true if the text contains doubled quotes, each of which means one quote
 * @throws Error if the text has another type
 */
type ReadField = (bytes: Buffer, from: number, to: number, isEscaped: boolean) => FieldValue;

const dayMs = 86_400_000;

/** Readers of the fields of each type of column. */
export const fieldReaders: Readonly<Record<ColumnDescription['type'], ReadField>> = {
  string: readText,
  date: (bytes, from, to) => readMs(bytes, from, to) / dayMs,
  timestamp: (bytes, from, to) => BigInt(readMs(bytes, from, to)),
  int32: (bytes, from, to) => readInteger(bytes, from, to),
  int64: (bytes, from, to) => BigInt(bytes.toString('latin1', from, to)),
  'list<string>': (bytes, from, to, isEscaped) => {
    requireFewItems(bytes, from, to);
    return readList(readText(bytes, from, to, isEscaped));
  },
};

function readText(bytes: Buffer, from: number, to: number, isEscaped: boolean): string {
  const text = bytes.toString('utf8', from, to);
  return isEscaped ? text.replaceAll('""', '"') : text;
}

function readMs(bytes: Buffer, from: number, to: number): number {
  const ms = parseInstant(bytes, from, to);
  if (typeof ms === 'string')
    throw new Error(`The field "${bytes.toString('utf8', from, to)}" ${ms}.`);
  return ms;
}

/** Reads an integer of few digits. The writer refuses any other value. */
function readInteger(bytes: Buffer, from: number, to: number): number {
  return Number(bytes.toString('latin1', from, to));
}

/**
 * Maximum number of items of a list. An ingest accepts no longer list, because both lists of a row
 * have the same number of items. A backend may insert a longer list by SQL. Without this error, a
 * list with eight times as many items ends the worker thread.
 */
const maxItems = 2 ** 19;
const comma = 0x2c;

/** @throws Error for a list that may have too many items */
function requireFewItems(bytes: Buffer, from: number, to: number): void {
  if (to - from < maxItems) return;
  let commas = 0;
  for (let at = from; at < to; at += 1) if (bytes[at] === comma) commas += 1;
  if (commas >= maxItems) throw new Error(`A list has more than ${maxItems} items.`);
}

const quote = '"';

/**
 * Returns the items of a list. A quote that does not open an item is part of it: rows by SQL are
 * not validated.
 */
function readList(text: string): string[] {
  if (text === '') return [];
  if (!text.includes(quote)) return text.split(',');
  const items: string[] = [];
  for (let at = 0; at <= text.length; ) {
    let item = '';
    if (text[at] === quote) {
      const closing = findClosing(text, at + 1);
      item = text.slice(at + 1, closing).replaceAll('""', quote);
      at = Math.min(closing + 1, text.length);
    }
    const comma = text.indexOf(',', at);
    const end = comma === -1 ? text.length : comma;
    items.push(item + text.slice(at, end));
    at = end + 1;
  }
  return items;
}

/** Returns the position of the quote that closes an item, or the end of the text. */
function findClosing(text: string, from: number): number {
  let at = text.indexOf(quote, from);
  while (at !== -1 && text[at + 1] === quote) at = text.indexOf(quote, at + 2);
  return at === -1 ? text.length : at;
}
