/**
 * Encrypts stored secrets with AES-256-GCM and one of the operator's keys. Environment and config
 * are associated data, so a value that is copied to another row cannot be decrypted.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import type { EncryptionKey } from '../config/config.ts';

export type EncryptionKeys = readonly [EncryptionKey, ...EncryptionKey[]];

/** Owner of a secret. */
export interface SecretOwner {
  readonly environmentId: string;
  /** Id of the export config; null for the webhook of the environment. */
  readonly configId: string | null;
}

/**
 * Length of the random nonce: 96 bits, as GCM recommends. One key is safe for 2^32 encryptions, far
 * more than there are configs.
 */
const nonceBytes = 12;
const tagBytes = 16;
const algorithm = 'aes-256-gcm';

/**
 * Encrypts a secret with the first key.
 * @returns `v1.<key id>.<base64url of nonce, ciphertext and tag>`
 */
export function sealSecret(keys: EncryptionKeys, plaintext: string, owner: SecretOwner): string {
  const { id, key } = keys[0];
  const nonce = randomBytes(nonceBytes);
  const cipher = createCipheriv(algorithm, key, nonce, { authTagLength: tagBytes });
  cipher.setAAD(associatedData(id, owner));
  const sealed = Buffer.concat([
    nonce,
    cipher.update(plaintext, 'utf8'),
    cipher.final(),
    cipher.getAuthTag(),
  ]);
  return `v1.${id}.${sealed.toString('base64url')}`;
}

/**
 * Decrypts a secret.
 * @throws Error without any part of the value, if it is malformed, tampered with, of an unknown key
 * or of another owner
 */
export function openSecret(keys: EncryptionKeys, sealed: string, owner: SecretOwner): string {
  const { keyId, payload } = parse(sealed);
  const found = keys.find(({ id }) => id === keyId);
  if (found === undefined)
    throw new Error(`the secret is sealed under the key "${keyId}", which is not configured`);
  const decipher = createDecipheriv(algorithm, found.key, payload.subarray(0, nonceBytes), {
    authTagLength: tagBytes,
  });
  decipher.setAAD(associatedData(keyId, owner));
  decipher.setAuthTag(payload.subarray(-tagBytes));
  const text = decipher.update(payload.subarray(nonceBytes, -tagBytes));
  try {
    return Buffer.concat([text, decipher.final()]).toString('utf8');
  } catch {
    throw new Error('the secret does not open: it was changed, or belongs to another config');
  }
}

/** Returns true if the secret is encrypted with the first key. */
export function isSealedUnderFirstKey(keys: EncryptionKeys, sealed: string): boolean {
  return parse(sealed).keyId === keys[0].id;
}

function parse(sealed: string): { keyId: string; payload: Buffer } {
  const [, keyId, encoded] = /^v1\.([A-Za-z0-9_-]{1,32})\.([A-Za-z0-9_-]+)$/.exec(sealed) ?? [];
  const payload = Buffer.from(encoded ?? '', 'base64url');
  // The encoding must round-trip: base64url has spare bits that could be changed unnoticed.
  if (
    keyId === undefined ||
    payload.length < nonceBytes + tagBytes ||
    payload.toString('base64url') !== encoded
  ) {
    throw new Error('the secret is not in the form in which secrets are stored');
  }
  return { keyId, payload };
}

/** Returns the associated data. JSON separates the parts unambiguously. */
function associatedData(keyId: string, { environmentId, configId }: SecretOwner): Buffer {
  return Buffer.from(JSON.stringify(['v1', keyId, environmentId, configId]));
}
