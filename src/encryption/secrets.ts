/**
 * Customers' secret keys at rest: AES-256-GCM under one of the operator's keys. The environment and the config are
 * associated data, so a stored value that is copied to another row does not open there.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import type { EncryptionKey } from '../config/config.ts';

export type EncryptionKeys = readonly [EncryptionKey, ...EncryptionKey[]];

/** Whose secret it is. */
export interface SecretOwner {
  readonly environmentId: string;
  /** Null: that of the environment's failure webhook. */
  readonly configId: string | null;
}

/** 96 bits, the size that GCM is made for. Random: 2^32 seals a key are safe, far more than configs there can be. */
const nonceBytes = 12;
const tagBytes = 16;
const algorithm = 'aes-256-gcm';

/** @returns `v1.<key id>.<base64url of nonce, ciphertext and tag>`, under the first key. */
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

/** @throws Error that holds nothing of the value, when it is malformed, of an unknown key, changed or of another owner. */
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

/** False: `openSecret` and `sealSecret` again would move it to the first key. */
export function isSealedUnderFirstKey(keys: EncryptionKeys, sealed: string): boolean {
  return parse(sealed).keyId === keys[0].id;
}

function parse(sealed: string): { keyId: string; payload: Buffer } {
  const [, keyId, encoded] = /^v1\.([A-Za-z0-9_-]{1,32})\.([A-Za-z0-9_-]+)$/.exec(sealed) ?? [];
  const payload = Buffer.from(encoded ?? '', 'base64url');
  // Written back it must be the same text: base64 has spare bits that could otherwise be changed unseen.
  if (
    keyId === undefined ||
    payload.length < nonceBytes + tagBytes ||
    payload.toString('base64url') !== encoded
  ) {
    throw new Error('the secret is not in the form in which secrets are stored');
  }
  return { keyId, payload };
}

/** JSON keeps the parts apart whatever they hold. */
function associatedData(keyId: string, { environmentId, configId }: SecretOwner): Buffer {
  return Buffer.from(JSON.stringify(['v1', keyId, environmentId, configId]));
}
