import type { StoredColumn } from '../columns.ts';
import type { FieldInspector } from './csv-scanner.ts';
import type { HeaderField } from './match-header.ts';
import { maxIdBytes } from './value-rules.ts';

/**
 * Watches whether every value of a body has the plain form, the one in which this service writes it itself: an instant
 * as `2026-01-02T03:04:05.678Z`, a number without sign or leading zero, a list without quotes. Of a body that is plain
 * throughout, casts and the table's own constraints are check enough, and loading takes half the time. Nothing is
 * refused here: other forms may be right as well, and SQL looks at those one by one.
 */
export interface PlainCheck {
  readonly inspectors: readonly (FieldInspector | null)[];
  isPlain(): boolean;
}

const zero = 0x30;
const comma = 0x2c;
const quote = 0x22;
const lf = 0x0a;
const cr = 0x0d;

export function createPlainCheck(fields: readonly HeaderField[]): PlainCheck {
  let isPlain = true;
  const watch =
    (isPlainValue: IsPlain): FieldInspector =>
    (bytes, start, end, isQuoted) => {
      if (isPlain && !isPlainValue(bytes, start, end, isQuoted)) isPlain = false;
    };
  const [firstList, secondList] = createListChecks();
  const firstListAt = fields.findIndex(field => field?.kind === 'list');
  return {
    inspectors: fields.map((field, index) => {
      if (field === null) return null;
      return watch(plainRule(field, index === firstListAt ? firstList : secondList));
    }),
    isPlain: () => isPlain,
  };
}

type IsPlain = (bytes: Buffer, start: number, end: number, isQuoted: boolean) => boolean;

function plainRule(column: StoredColumn, list: IsPlain): IsPlain {
  switch (column.kind) {
    case 'id':
      return (_bytes, start, end) => end > start && end - start <= maxIdBytes;
    case 'text':
      return (_bytes, start, end, isQuoted) => column.nullable || isQuoted || end > start;
    case 'instant':
      return orNull(column.nullable, isPlainInstant);
    case 'integer':
      return orNull(column.nullable, isPlainNumber);
    case 'list':
      return list;
  }
}

function orNull(nullable: boolean, rule: IsPlain): IsPlain {
  if (!nullable) return rule;
  return (bytes, start, end, isQuoted) =>
    (start === end && !isQuoted) || rule(bytes, start, end, isQuoted);
}

/** Names and IDs of a record, in either order, must have as many items: the later one is held against the earlier. */
function createListChecks(): [IsPlain, IsPlain] {
  let earlier = 0;
  return [
    (bytes, start, end) => {
      earlier = countItems(bytes, start, end);
      return !Number.isNaN(earlier);
    },
    (bytes, start, end) => countItems(bytes, start, end) === earlier,
  ];
}

const instantTemplate = Buffer.from('0000-00-00T00:00:00.000Z');

/** Digits and marks in their places, and a time of day that no clock carries over. The date is left to the cast. */
function isPlainInstant(bytes: Buffer, start: number, end: number): boolean {
  if (end - start !== instantTemplate.length) return false;
  for (let index = 0; index < instantTemplate.length; index += 1) {
    const byte = bytes[start + index] ?? 0;
    const wanted = instantTemplate[index];
    if (wanted === zero ? byte < zero || byte > zero + 9 : byte !== wanted) return false;
  }
  const digit = (index: number) => (bytes[start + index] ?? 0) - zero;
  return digit(11) * 10 + digit(12) < 24 && digit(14) < 6 && digit(17) < 6;
}

function isPlainNumber(bytes: Buffer, start: number, end: number): boolean {
  const length = end - start;
  if (length < 1 || length > 18 || (length > 1 && bytes[start] === zero)) return false;
  for (let at = start; at < end; at += 1) {
    const byte = bytes[at] ?? 0;
    if (byte < zero || byte > zero + 9) return false;
  }
  return true;
}

/** The items of a list without quotes and line breaks; NaN for any other. */
function countItems(bytes: Buffer, start: number, end: number): number {
  if (start === end) return 0;
  let items = 1;
  for (let at = start; at < end; at += 1) {
    const byte = bytes[at];
    if (byte === comma) items += 1;
    else if (byte === quote || byte === lf || byte === cr) return Number.NaN;
  }
  return items;
}
