/** SQL for instants. It requires a session in UTC with ISO dates, as `beginInUtc` sets it up. */

/** Returns SQL that begins a transaction with UTC and ISO dates on every server. */
export function beginInUtc(mode = ''): string {
  return `begin ${mode}; set local time zone 'UTC'; set local datestyle = 'ISO, YMD'`;
}

/**
 * Returns SQL that formats a `timestamptz(3)` expression as `2026-01-02T03:04:05.678Z`.
 *
 * JSON output is the cheapest form that has the `T`, but it drops trailing zeros. Adding a
 * microsecond prevents that, and `substr` cuts it off again. With four instants per row this takes
 * a quarter less time than `to_char`.
 */
export function renderInstant(expression: string): string {
  return `substr(to_json(${expression} + interval '1 microsecond')::text, 2, 23) || 'Z'`;
}
