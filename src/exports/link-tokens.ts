import { createHash, hkdfSync } from 'node:crypto';
import { errors, jwtVerify, SignJWT } from 'jose';
import type { EncryptionKey } from '../config/config.ts';
import type { Grant } from '../environments/auth/recheck-access.sql.ts';
import type { RequestedFile } from './send-export.ts';

/** File that a download link opens, and the creator of the link. */
export interface LinkGrant extends RequestedFile, Grant {
  /** Id of the link in the audit log. Not a secret. */
  readonly linkId: string;
}

export type LinkTokens = ReturnType<typeof createLinkTokens>;

const algorithm = 'HS256';
/** Change the number with the fields of a grant, so that every verified grant has them. */
const audience = 'warehouse-export download 2';

/**
 * Maximum length of a token. No signed token is longer; its longest part is the subject of a user.
 */
export const maxTokenLength = 2_000;

/**
 * Signs links as JWTs. The signing keys are derived from the encryption keys and the operator
 * token, so a link becomes invalid when either is replaced. The first key signs, all verify.
 */
export function createLinkTokens(
  keys: readonly [EncryptionKey, ...EncryptionKey[]],
  adminToken: string,
) {
  const salt = createHash('sha256').update(adminToken).digest();
  const secretOf = ({ key }: EncryptionKey) =>
    new Uint8Array(hkdfSync('sha256', key, salt, audience, 32));
  const secrets = new Map(keys.map(key => [key.id, secretOf(key)]));
  const [first] = keys;
  const signingSecret = secretOf(first);
  return {
    async sign(grant: LinkGrant, issuedAt: Date, expiresAt: Date): Promise<string> {
      return await new SignJWT({ grant })
        .setProtectedHeader({ alg: algorithm, kid: first.id })
        .setAudience(audience)
        .setIssuedAt(issuedAt)
        .setExpirationTime(expiresAt)
        .sign(signingSecret);
    },

    /** Verifies a token. @returns null if it was changed, has expired or is of another service */
    async verify(token: string, now: Date): Promise<LinkGrant | null> {
      try {
        const { payload } = await jwtVerify<{ readonly grant: LinkGrant }>(
          token,
          header => secrets.get(header.kid ?? '') ?? Promise.reject(new errors.JWKSNoMatchingKey()),
          { algorithms: [algorithm], audience, currentDate: now },
        );
        return payload.grant;
      } catch (error) {
        if (error instanceof errors.JOSEError) return null;
        throw error;
      }
    },
  };
}
