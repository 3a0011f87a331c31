import { isUtf8 } from 'node:buffer';

/**
 * Checks a stream of chunks for well-formed UTF-8, also where a character is cut by a chunk's end.
 * `check` gives the offset in this chunk of the first character at fault (below 0: it began in the chunk before), or
 * null. `isComplete` is false while a character is cut.
 */
export function createUtf8Check(): { check(chunk: Buffer): number | null; isComplete(): boolean } {
  let cut: Buffer = Buffer.alloc(0);
  return {
    check(chunk) {
      const text = cut.length === 0 ? chunk : Buffer.concat([cut, chunk]);
      const whole = text.length - cutLength(text);
      if (!isUtf8(text.subarray(0, whole))) return firstFault(text) - cut.length;
      cut = Buffer.from(text.subarray(whole));
      return null;
    },
    isComplete: () => cut.length === 0,
  };
}

/** How many bytes at the end are the beginning of a character whose rest has yet to come. */
function cutLength(text: Buffer): number {
  for (let back = 1; back <= Math.min(3, text.length); back += 1) {
    const byte = text[text.length - back] ?? 0;
    if ((byte & 0xc0) === 0x80) continue;
    return bytesBegunBy(byte) > back ? back : 0;
  }
  return 0;
}

function bytesBegunBy(byte: number): number {
  // Nothing well-formed begins with 0xc0, 0xc1 or what is above 0xf4.
  if (byte > 0xf4 || byte < 0xc2) return 1;
  return byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
}

/** The length of the longest prefix that is well-formed, by bisection. */
function firstFault(text: Buffer): number {
  let good = 0;
  let bad = text.length;
  while (bad - good > 1) {
    const middle = (good + bad) >> 1;
    const prefix = text.subarray(0, middle);
    if (isUtf8(prefix.subarray(0, middle - cutLength(prefix)))) good = middle;
    else bad = middle;
  }
  return Math.max(0, bad - 1);
}
