/** How instants look in SQL. All of it assumes a session in UTC with ISO dates, as `beginInUtc` makes it. */

/** Opens a transaction in which instants and dates have one meaning, whatever the server's defaults. */
export function beginInUtc(mode = ''): string {
  return `begin ${mode}; set local time zone 'UTC'; set local datestyle = 'ISO, YMD'`;
}

/**
 * A `timestamptz(3)` expression as `2026-01-02T03:04:05.678Z`. JSON output has the `T` and is the cheapest that does;
 * it drops trailing zeros, which the added microsecond prevents, and the cut removes it again.
 * Measured with four instants a row: a quarter less time than `to_char`.
 */
export function renderInstant(expression: string): string {
  return `substr(to_json(${expression} + interval '1 microsecond')::text, 2, 23) || 'Z'`;
}

/** ISO-8601 with `Z` or an offset, or a bare date. Days that no month has are not told apart here. */
export const instantPattern =
  '^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])' +
  '(T([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]{1,30})?)?(Z|[+-](0[0-9]|1[0-5])(:?[0-5][0-9])?))?$';

/** A text that fits the pattern as `timestamptz`. What is finer than a millisecond is cut: a cast would round. */
export function parseInstant(expression: string): string {
  return `(case when length(${expression}) > 24 then regexp_replace(${expression}, '([.][0-9]{3})[0-9]+', '\\1') else ${expression} end)::timestamptz`;
}

/** Whether a `timestamptz` shows a year of four digits. */
export function isFourDigitYear(expression: string): string {
  return `${expression} >= '0001-01-01T00:00:00Z' and ${expression} < '9999-12-31T23:59:59.999Z'::timestamptz + interval '1 millisecond'`;
}
