const notAnInstant =
  'is not an ISO-8601 instant with Z or an offset, such as 2026-01-02T03:04:05.678Z';
const notADay = 'is not a day of the calendar';
const outsideYears = 'is outside the years 0001 to 9999';

const minuteMs = 60_000;
const dayMs = 86_400_000;
const earliestMs = Date.parse('0001-01-01T00:00:00.000Z');
const latestMs = Date.parse('9999-12-31T23:59:59.999Z');
const monthDays = [0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] as const;
const maxDecimals = 30;

const dash = 0x2d;
const colon = 0x3a;
const dot = 0x2e;
const plus = 0x2b;
const letterT = 0x54;
const letterZ = 0x5a;

/**
 * Parses a date, or a date with hours and minutes, optional seconds and decimals, and `Z` or an
 * offset. A bare date means 00:00 UTC. Decimals after the third are cut.
 *
 * @returns milliseconds since 1970, or an error message
 */
export function parseInstant(bytes: Buffer, from: number, to: number): number | string {
  const length = to - from;
  if (length < 10 || bytes[from + 4] !== dash || bytes[from + 7] !== dash) return notAnInstant;
  // `pair` returns a negative number unless it reads two digits. The comparisons below then fail.
  const century = pair(bytes, from);
  const yearOfCentury = pair(bytes, from + 2);
  const year = century * 100 + yearOfCentury;
  const month = pair(bytes, from + 5);
  const day = pair(bytes, from + 8);
  if (century < 0 || yearOfCentury < 0 || month < 1 || month > 12 || day < 1 || day > 31)
    return notAnInstant;
  const timeMs = length === 10 ? 0 : parseTime(bytes, from + 10, to);
  if (timeMs === null) return notAnInstant;
  const isLeap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  if (year === 0 || day > (monthDays[month] ?? 0) || (month === 2 && day === 29 && !isLeap))
    return notADay;
  const ms = daysSince1970(year, month, day) * dayMs + timeMs;
  return ms < earliestMs || ms > latestMs ? outsideYears : ms;
}

/** Returns milliseconds since 00:00 UTC of the day; null if the text is no time. */
function parseTime(bytes: Buffer, from: number, to: number): number | null {
  const hour = pair(bytes, from + 1);
  const minute = pair(bytes, from + 4);
  const isTime = bytes[from] === letterT && bytes[from + 3] === colon;
  if (!isTime || hour < 0 || hour > 23 || minute < 0 || minute > 59) return null;
  let ms = (hour * 60 + minute) * minuteMs;
  let at = from + 6;
  if (bytes[at] === colon) {
    const second = pair(bytes, at + 1);
    if (second < 0 || second > 59) return null;
    ms += second * 1000;
    at += 3;
    if (bytes[at] === dot) {
      const decimals = at + 1;
      let weight = 100;
      for (at = decimals; at < to; at += 1) {
        const digit = (bytes[at] ?? 0) - 0x30;
        if (digit < 0 || digit > 9) break;
        ms += digit * weight;
        weight = weight > 1 ? weight / 10 : 0;
      }
      if (at === decimals || at - decimals > maxDecimals) return null;
    }
  }
  const sign = bytes[at];
  // Bytes after `to` may have been read as digits. The comparisons with `to` refuse them.
  if (sign === letterZ) return at + 1 === to ? ms : null;
  if (sign !== plus && sign !== dash) return null;
  const offsetHours = pair(bytes, at + 1);
  if (offsetHours < 0 || offsetHours > 15) return null;
  let offsetMinutes = 0;
  if (at + 3 < to) {
    const minutesAt = bytes[at + 3] === colon ? at + 4 : at + 3;
    offsetMinutes = pair(bytes, minutesAt);
    if (minutesAt + 2 !== to || offsetMinutes < 0 || offsetMinutes > 59) return null;
  } else if (at + 3 !== to) {
    return null;
  }
  const offset = (offsetHours * 60 + offsetMinutes) * minuteMs;
  return sign === plus ? ms - offset : ms + offset;
}

/** Returns the number that two digits make, or a negative number. */
function pair(bytes: Buffer, at: number): number {
  const tens = (bytes[at] ?? 0) - 0x30;
  const ones = (bytes[at + 1] ?? 0) - 0x30;
  return tens < 0 || tens > 9 || ones < 0 || ones > 9 ? -100_000 : tens * 10 + ones;
}

/**
 * Returns the days since 1970. Years start in March here, so that a leap day is the last of a year.
 */
function daysSince1970(year: number, month: number, day: number): number {
  const years = month > 2 ? year : year - 1;
  const dayOfYear = Math.floor((153 * (month > 2 ? month - 3 : month + 9) + 2) / 5) + day - 1;
  const leapDays = Math.floor(years / 4) - Math.floor(years / 100) + Math.floor(years / 400);
  return years * 365 + leapDays + dayOfYear - 719_468;
}
