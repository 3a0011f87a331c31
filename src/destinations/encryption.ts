/** Parses the server-side encryption of a config. */
import type { FieldError } from '../shared/errors.ts';
import type { Provider } from './names.ts';

export const encryptionTypes = ['AES256', 'aws:kms'] as const;

export interface Encryption {
  readonly type: (typeof encryptionTypes)[number];
  /** Id, ARN or alias of a key for `aws:kms`; null for the default key of the storage. */
  readonly kmsKeyId: string | null;
}

/** Encryption in a request body. */
export interface EncryptionBody {
  readonly type: Encryption['type'];
  readonly kmsKeyId?: string | null;
}

/** Returns the trimmed encryption, or the error of its field. */
export function parseEncryption(
  body: EncryptionBody | null,
  provider: Provider,
): Encryption | null | FieldError {
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

/** Returns the parameters of PutObject and CreateMultipartUpload for an encryption. */
export function encryptionParams(encryption: Encryption | null): {
  ServerSideEncryption?: Encryption['type'];
  SSEKMSKeyId?: string;
} {
  if (encryption === null) return {};
  const { type, kmsKeyId } = encryption;
  return { ServerSideEncryption: type, ...(kmsKeyId !== null && { SSEKMSKeyId: kmsKeyId }) };
}
