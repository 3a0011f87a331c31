/**
 * Returns an instant of a body in milliseconds, or null if it is invalid. Shares no code with the
 * service.
 */
export function instantMs(text: string): number | null {
  const parts =
    /^(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,30}))?)?(?:Z|([+-])(\d\d)(?::?(\d\d))?))?$/.exec(
      text,
    );
  if (parts === null || /[^\x20-\x7e]/.test(text)) return null;
  const [year, month, day, hour, minute, second] = [1, 2, 3, 4, 5, 6].map(at =>
    Number(parts[at] ?? 0),
  ) as [number, number, number, number, number, number];
  if (hour > 23 || minute > 59 || second > 59) return null;
  const offset = [parts[9], parts[10]].map(part => Number(part ?? 0)) as [number, number];
  if (offset[0] > 15 || offset[1] > 59) return null;
  const ms = Number((parts[7] ?? '').slice(0, 3).padEnd(3, '0'));
  const local = new Date(0);
  local.setUTCFullYear(year, month - 1, day);
  if (year === 0 || local.getUTCMonth() !== month - 1 || local.getUTCDate() !== day) return null;
  local.setUTCHours(hour, minute, second, ms);
  const shift = (offset[0] * 60 + offset[1]) * 60_000 * (parts[8] === '-' ? 1 : -1);
  const time = local.getTime() + shift;
  const [from, to] = [new Date(0), new Date(0)];
  from.setUTCFullYear(1, 0, 1);
  to.setUTCFullYear(10_000, 0, 1);
  return time < from.getTime() || time >= to.getTime() ? null : time;
}
