/** SQL of instants. It needs a session in UTC with ISO dates, as `beginInUtc` makes it. */

/** Begins a transaction that reads and shows instants and dates alike on every server. */
export function beginInUtc(mode = ''): string {
  return `begin ${mode}; set local time zone 'UTC'; set local datestyle = 'ISO, YMD'`;
}

/**
 * Shows a `timestamptz(3)` expression as `2026-01-02T03:04:05.678Z`. JSON output is the cheapest that
 * has the `T`. It drops trailing zeros: an added microsecond prevents this and is cut again.
 * Measured with four instants a row, this takes a quarter less time than `to_char`.
 */
export function renderInstant(expression: string): string {
  return `substr(to_json(${expression} + interval '1 microsecond')::text, 2, 23) || 'Z'`;
}
