/** Deterministic bytes in chunks of odd sizes, generated on demand. */
import { createHash } from 'node:crypto';
import type { Destination } from '../../../src/destinations/destination.ts';
import type { UploadRequest } from '../../../src/destinations/s3/upload.ts';

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

/** Returns a request that uploads `size` bytes as `file.csv`. */
export function uploadRequest(
  destination: Destination,
  size: number,
  overrides: Partial<UploadRequest> = {},
): UploadRequest {
  return {
    destination,
    key: `${destination.key}/file.csv`,
    body: bytes(size),
    contentType: 'text/csv',
    metadata: {},
    expectedSizeBytes: size,
    signal: new AbortController().signal,
    onMultipartStarted: async () => {},
    ...overrides,
  };
}

export async function digestOf(size: number): Promise<{ bytes: number; sha256: string }> {
  const hash = createHash('sha256');
  for await (const chunk of bytes(size)) hash.update(chunk);
  return { bytes: size, sha256: hash.digest('hex') };
}
