import { createHash } from 'node:crypto';
import { parseDictionary } from 'structured-headers';
import { AppError, validationFailed } from '../shared/errors.ts';

/** Digest that the sender declared for the body as sent. */
export interface ContentDigest {
  readonly algorithm: 'sha256' | 'sha512';
  readonly expected: Buffer;
}

const algorithms = [
  { key: 'sha-256', algorithm: 'sha256', bytes: 32 },
  { key: 'sha-512', algorithm: 'sha512', bytes: 64 },
] as const;

/**
 * Parses a `Content-Digest` field (RFC 9530). Unknown algorithms are ignored.
 *
 * @throws AppError `validation_failed`
 */
export function parseContentDigest(value: string | undefined): ContentDigest[] {
  if (value === undefined) return [];
  const fields = parseFields(value);
  return algorithms.flatMap(({ key, algorithm, bytes }) => {
    const item = fields.get(key)?.[0];
    if (item === undefined) return [];
    if (!(item instanceof ArrayBuffer) || item.byteLength !== bytes)
      throw malformed(`needs ${bytes} bytes of base64 between colons for ${key}`);
    return [{ algorithm, expected: Buffer.from(item) }];
  });
}

function parseFields(value: string) {
  try {
    return parseDictionary(value);
  } catch {
    throw malformed('is not a dictionary such as sha-256=:…:');
  }
}

function malformed(message: string): AppError {
  return validationFailed([{ path: '/headers/content-digest', message }]);
}

/**
 * Passes a body through and compares it with its digests before it ends.
 *
 * @throws AppError `digest_mismatch`
 */
export async function* verifyDigests(
  body: AsyncIterable<Buffer>,
  digests: readonly ContentDigest[],
): AsyncGenerator<Buffer> {
  const hashes = digests.map(({ algorithm }) => createHash(algorithm));
  for await (const chunk of body) {
    for (const hash of hashes) hash.update(chunk);
    yield chunk;
  }
  for (const [index, { algorithm, expected }] of digests.entries()) {
    if (hashes[index]?.digest().equals(expected) === true) continue;
    const detail = `The ${algorithm} digest of the body differs from the header Content-Digest.`;
    throw new AppError('digest_mismatch', detail);
  }
}
