import type { IncomingHttpHeaders } from 'node:http';
import fresh from 'fresh';
import { parse as parseRange } from 'range-parser';
import { secondOf } from '../shared/iso-date.ts';

/** Properties of a file that conditional and range requests need (RFC 9110, sections 13 and 14). */
export interface Representation {
  /** Strong entity tag with its quotes. */
  readonly etag: string;
  /** Time of the newest snapshot in the file; null if it contains none. */
  readonly lastModified: Date | null;
  /**
   * True if the file at this URL cannot have changed since `lastModified`. Otherwise it counts as
   * changed since every date.
   */
  readonly isDateValidator: boolean;
  /** Size in bytes; null if it is unknown before the last byte. Ranges are then ignored. */
  readonly sizeBytes: number | null;
}

/** Range of bytes. Both positions are inclusive. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

export type Answer =
  | { readonly status: 200 | 304 | 412 | 416 }
  | { readonly status: 206; readonly range: ByteRange };

/**
 * Chooses the response to a GET or HEAD request in the order of RFC 9110, section 13.2.2. Only GET
 * gets a range. A request for several ranges gets the whole file.
 */
export function chooseAnswer(
  method: string,
  headers: IncomingHttpHeaders,
  file: Representation,
): Answer {
  if (!meetsPrecondition(headers, file)) return { status: 412 };
  if (isNotModified(headers, file)) return { status: 304 };
  const { range } = headers;
  if (method !== 'GET' || range === undefined || file.sizeBytes === null) return { status: 200 };
  if (!matchesIfRange(headers, file)) return { status: 200 };
  return chooseRange(range, file.sizeBytes);
}

/** Formats an HTTP date, which has whole seconds. */
export function httpDate(instant: Date): string {
  return instant.toUTCString();
}

function meetsPrecondition(headers: IncomingHttpHeaders, file: Representation): boolean {
  const ifMatch = headers['if-match'];
  if (ifMatch !== undefined) {
    if (ifMatch.trim() === '*') return true;
    // Strong comparison: a weak tag never matches.
    const tags: readonly string[] = ifMatch.match(/(?:W\/)?"[^"]*"/g) ?? [];
    return tags.includes(file.etag);
  }
  const since = headers['if-unmodified-since'];
  if (since === undefined || file.lastModified === null) return true;
  const sinceMs = Date.parse(since);
  if (Number.isNaN(sinceMs)) return true;
  return file.isDateValidator && secondOf(file.lastModified) <= sinceMs;
}

function isNotModified(headers: IncomingHttpHeaders, file: Representation): boolean {
  const date =
    file.lastModified !== null && file.isDateValidator ? httpDate(file.lastModified) : undefined;
  return fresh(headers, { etag: file.etag, 'last-modified': date });
}

function matchesIfRange(headers: IncomingHttpHeaders, file: Representation): boolean {
  const ifRange = headers['if-range'];
  if (ifRange === undefined) return true;
  // A date never matches. It has whole seconds, and a file may change twice within one.
  return String(ifRange).trim() === file.etag;
}

function chooseRange(header: string, sizeBytes: number): Answer {
  const { code, type, ranges } = parseRange(sizeBytes, header);
  // Bit 1 of the code marks a malformed range, bit 2 a range that starts beyond the end.
  if (type.trim() !== 'bytes' || (code & 1) !== 0) return { status: 200 };
  const [range] = ranges;
  if (range === undefined) return { status: code === 0 ? 200 : 416 };
  return ranges.length === 1 && code === 0 ? { status: 206, range } : { status: 200 };
}
