import { crc32 } from 'node:zlib';
import type { Frame } from './frames.ts';

/**
 * One gzip member (RFC 1952) out of deflated frames that were made apart. Members one after the other would be simpler,
 * but browsers read the first alone, and a file cut between two of them would look whole.
 */

/** No name, no time, so that the same data gives the same bytes; "fastest", unknown system. */
const header = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255]);

/** The frames end on a byte but do not end the deflate stream; an empty last block does. */
const lastBlock = Buffer.from([3, 0]);

/** @param frames in the form `deflated`; what comes out is lent like them */
export async function* gzipStream(frames: AsyncIterable<Frame>): AsyncGenerator<Buffer> {
  yield header;
  let crc = crc32('');
  let plainBytes = 0;
  for await (const frame of frames) {
    yield frame.bytes;
    crc = combineCrcs(crc, frame.crc, frame.plainBytes);
    plainBytes += frame.plainBytes;
  }
  const trailer = Buffer.alloc(8);
  trailer.writeUInt32LE(crc, 0);
  trailer.writeUInt32LE(plainBytes % 2 ** 32, 4);
  yield Buffer.concat([lastBlock, trailer]);
}

/** The reflected polynomial of CRC-32. */
const polynomial = 0xedb88320;
/** The polynomials 1 and x, whose coefficients stand from the highest bit down. */
const one = 0x80000000;
const x = 0x40000000;

/**
 * The CRC-32 of two texts one after the other, from those of each: the first one's is moved on by as many zero bytes as
 * the second has, which is a multiplication by x^(8 · length). Source: zlib's `crc32_combine`,
 * https://github.com/madler/zlib/blob/develop/crc32.c
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

/** x^(2^n) */
function powerOfTwo(n: number): number {
  let power = x;
  for (let squared = 0; squared < n; squared += 1) power = multiply(power, power);
  return power;
}

/** Modulo the polynomial. */
function multiply(left: number, right: number): number {
  let product = 0;
  let shifted = right;
  for (let bit = one; bit !== 0; bit >>>= 1) {
    if ((left & bit) !== 0) product ^= shifted;
    shifted = (shifted & 1) === 1 ? (shifted >>> 1) ^ polynomial : shifted >>> 1;
  }
  return product >>> 0;
}
