/** Deterministic bytes in chunks of odd sizes, generated on demand. */
import { createHash } from 'node:crypto';

export const mebibyte = 1024 * 1024;
const pattern = Buffer.alloc(mebibyte + 17, 'company,feature,"quoted, ü"\n');

/**
 * Yields `size` bytes. Calls `before(offset)` before each chunk; its errors become errors of the
 * source.
 */
export async function* bytes(
  size: number,
  before: (offset: number) => unknown = () => {},
): AsyncGenerator<Uint8Array> {
  for (let offset = 0; offset < size; ) {
    await before(offset);
    const length = Math.min(size - offset, 65_521);
    const start = offset % mebibyte;
    const chunk = pattern.subarray(start, Math.min(start + length, pattern.length));
    yield chunk;
    offset += chunk.length;
  }
  await before(size);
}

export async function digestOf(size: number): Promise<{ bytes: number; sha256: string }> {
  const hash = createHash('sha256');
  for await (const chunk of bytes(size)) hash.update(chunk);
  return { bytes: size, sha256: hash.digest('hex') };
}
