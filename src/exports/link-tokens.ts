import { createHash, hkdfSync } from 'node:crypto';
import { errors, jwtVerify, SignJWT } from 'jose';
import type { EncryptionKey } from '../config/config.ts';
import { type Aggregation, aggregations } from './aggregations.ts';

/** What a download link opens: one file of one environment, for as long as who made it may. */
export interface LinkGrant {
  readonly environmentId: string;
  readonly aggregation: Aggregation;
  readonly compression: 'none' | 'gzip';
  /** The API key that made it; null: the operator, or a user whose own token lasts longer than the link. */
  readonly keyId: string | null;
}

export interface LinkTokens {
  sign(grant: LinkGrant, issuedAt: Date, expiresAt: Date): Promise<string>;
  /** @returns null for a token that is tampered with, expired, or not ours */
  verify(token: string, now: Date): Promise<LinkGrant | null>;
}

const algorithm = 'HS256';
const audience = 'warehouse-export download';

/**
 * Tokens are JWTs whose keys are derived from the encryption keys and the operator token, so a link outlives neither.
 * The first key signs, all verify.
 */
export function createLinkTokens(
  keys: readonly [EncryptionKey, ...EncryptionKey[]],
  adminToken: string,
): LinkTokens {
  const salt = createHash('sha256').update(adminToken).digest();
  const secrets = new Map(
    keys.map(
      ({ id, key }) => [id, new Uint8Array(hkdfSync('sha256', key, salt, audience, 32))] as const,
    ),
  );
  const [first] = keys;
  return {
    async sign(grant, issuedAt, expiresAt) {
      const secret = secrets.get(first.id);
      if (secret === undefined) throw new Error('The first key has no secret.');
      return await new SignJWT({
        agg: grant.aggregation,
        gz: grant.compression === 'gzip',
        key: grant.keyId,
      })
        .setProtectedHeader({ alg: algorithm, kid: first.id })
        .setAudience(audience)
        .setSubject(grant.environmentId)
        .setIssuedAt(issuedAt)
        .setExpirationTime(expiresAt)
        .sign(secret);
    },

    async verify(token, now) {
      try {
        const { payload } = await jwtVerify(
          token,
          header => secrets.get(header.kid ?? '') ?? Promise.reject(new errors.JWKSNoMatchingKey()),
          { algorithms: [algorithm], audience, currentDate: now, requiredClaims: ['exp', 'sub'] },
        );
        const aggregation = aggregations.find(candidate => candidate === payload['agg']);
        const keyId = payload['key'];
        if (aggregation === undefined || payload.sub === undefined) return null;
        if (keyId !== null && typeof keyId !== 'string') return null;
        const compression = payload['gz'] === true ? 'gzip' : 'none';
        return { environmentId: payload.sub, aggregation, compression, keyId };
      } catch (error) {
        if (error instanceof errors.JOSEError) return null;
        throw error;
      }
    },
  };
}
