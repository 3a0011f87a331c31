/** Server-side encryption that a config asks for. Pure. */
import type { FieldFault } from '../shared/errors.ts';
import type { Provider } from './names.ts';

export const encryptionTypes = ['AES256', 'aws:kms'] as const;

export interface Encryption {
  readonly type: (typeof encryptionTypes)[number];
  /** For `aws:kms`: id, ARN or alias of a key. Null is the default key of the storage. */
  readonly kmsKeyId: string | null;
}

/** Encryption as a request body says it. */
export interface EncryptionBody {
  readonly type: Encryption['type'];
  readonly kmsKeyId?: string | null;
}

/** Returns the encryption without outer spaces, or the fault of its field. */
export function parseEncryption(
  body: EncryptionBody | null,
  provider: Provider,
): Encryption | null | FieldFault {
  if (body === null) return null;
  if (provider === 'gcp') {
    const message =
      'does not belong to the provider "gcp", which encrypts every object; set a default key on the bucket';
    return { path: '/encryption', message };
  }
  const kmsKeyId = body.kmsKeyId?.trim() ?? null;
  if (kmsKeyId === null) return { type: body.type, kmsKeyId };
  const path = '/encryption/kmsKeyId';
  if (body.type !== 'aws:kms') return { path, message: 'belongs to the type "aws:kms" alone' };
  if (!/^[\x21-\x7e]{1,2048}$/.test(kmsKeyId)) {
    return { path, message: 'must be 1 to 2,048 printable characters without spaces' };
  }
  return { type: body.type, kmsKeyId };
}

/** Returns the members that PutObject and CreateMultipartUpload need for it. */
export function encryptionParams(encryption: Encryption | null): {
  ServerSideEncryption?: Encryption['type'];
  SSEKMSKeyId?: string;
} {
  if (encryption === null) return {};
  const { type, kmsKeyId } = encryption;
  return { ServerSideEncryption: type, ...(kmsKeyId !== null && { SSEKMSKeyId: kmsKeyId }) };
}
