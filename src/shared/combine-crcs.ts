/** Combines checksums of adjacent byte ranges, as zlib's `crc32_combine` does. */

/** The reflected polynomial of CRC-32. */
const polynomial = 0xedb88320;
/** The polynomials 1 and x. The highest bit is the coefficient of x^0. */
const one = 0x80000000;
const x = 0x40000000;

/**
 * Returns the CRC-32 of two byte ranges joined, from the CRC-32 of each.
 * Appending zero bytes to a range multiplies its checksum by x^(8 · length).
 * Source: https://github.com/madler/zlib/blob/develop/crc32.c
 */
export function combineCrcs(first: number, second: number, secondBytes: number): number {
  let shift = one;
  let power = powerOfTwo(3);
  for (let rest = secondBytes; rest > 0; rest = Math.floor(rest / 2)) {
    if (rest % 2 === 1) shift = multiply(power, shift);
    power = multiply(power, power);
  }
  return (multiply(shift, first) ^ second) >>> 0;
}

/** Returns x^(2^n). */
function powerOfTwo(n: number): number {
  let power = x;
  for (let squared = 0; squared < n; squared += 1) power = multiply(power, power);
  return power;
}

/** Multiplies modulo the polynomial. */
function multiply(left: number, right: number): number {
  let product = 0;
  let shifted = right;
  for (let bit = one; bit !== 0; bit >>>= 1) {
    if ((left & bit) !== 0) product ^= shifted;
    shifted = (shifted & 1) === 1 ? (shifted >>> 1) ^ polynomial : shifted >>> 1;
  }
  return product >>> 0;
}
