import { createHash, hkdfSync, randomBytes } from 'node:crypto';
import { errors, type JWTPayload, jwtVerify, SignJWT } from 'jose';
import type { EncryptionKey } from '../config/config.ts';
import { type Aggregation, aggregations } from './aggregations.ts';

/** The file that a download link opens, and who made the link. */
export interface LinkGrant {
  /** Names the link in the audit log. Not a secret. */
  readonly linkId: string;
  readonly environmentId: string;
  /** Tells the environment from a later one with the same id. */
  readonly incarnation: string;
  readonly aggregation: Aggregation;
  /** UTC date; null for the date on which the link is followed. */
  readonly asOf: string | null;
  readonly compression: 'none' | 'gzip';
  readonly maker: LinkMaker;
}

/** The caller who made a link. */
export type LinkMaker =
  | { readonly kind: 'operator'; readonly id: null }
  | { readonly kind: 'api-key' | 'user'; readonly id: string };

export interface LinkTokens {
  sign(grant: LinkGrant, issuedAt: Date, expiresAt: Date): Promise<string>;
  /** @returns null for a token that was changed, has expired or was not signed here */
  verify(token: string, now: Date): Promise<LinkGrant | null>;
}

const algorithm = 'HS256';
const audience = 'warehouse-export download';

/** Longer than any token that is signed here. The longest part is the subject of a user. */
export const maxTokenLength = 2_000;

export function createLinkId(): string {
  return randomBytes(12).toString('base64url');
}

/**
 * Signs links as JWTs. The signing keys are derived from the encryption keys and the operator
 * token, so a link becomes invalid when either is replaced. The first key signs, all verify.
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
        day: grant.asOf,
        inc: grant.incarnation,
        by: [grant.maker.kind, grant.maker.id],
      })
        .setProtectedHeader({ alg: algorithm, kid: first.id })
        .setAudience(audience)
        .setSubject(grant.environmentId)
        .setJti(grant.linkId)
        .setIssuedAt(issuedAt)
        .setExpirationTime(expiresAt)
        .sign(secret);
    },

    async verify(token, now) {
      try {
        const { payload } = await jwtVerify(
          token,
          header => secrets.get(header.kid ?? '') ?? Promise.reject(new errors.JWKSNoMatchingKey()),
          {
            algorithms: [algorithm],
            audience,
            currentDate: now,
            requiredClaims: ['exp', 'sub', 'jti'],
          },
        );
        return toGrant(payload);
      } catch (error) {
        if (error instanceof errors.JOSEError) return null;
        throw error;
      }
    },
  };
}

/** @returns null for the claims of a version that signed other ones */
function toGrant({ sub, jti, ...claims }: JWTPayload): LinkGrant | null {
  const { agg, gz, day, inc, by } = claims as Record<string, unknown>;
  const aggregation = aggregations.find(candidate => candidate === agg);
  const maker = toMaker(by);
  if (sub === undefined || jti === undefined || aggregation === undefined) return null;
  if (typeof inc !== 'string' || maker === null) return null;
  if (day !== null && typeof day !== 'string') return null;
  return {
    linkId: jti,
    environmentId: sub,
    incarnation: inc,
    aggregation,
    asOf: day,
    compression: gz === true ? 'gzip' : 'none',
    maker,
  };
}

function toMaker(by: unknown): LinkMaker | null {
  if (!Array.isArray(by)) return null;
  const [kind, id] = by;
  if (kind === 'operator') return { kind, id: null };
  if ((kind === 'api-key' || kind === 'user') && typeof id === 'string') return { kind, id };
  return null;
}
