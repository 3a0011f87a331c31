import { createHash, hkdfSync, randomBytes } from 'node:crypto';
import { errors, type JWTPayload, jwtVerify, SignJWT } from 'jose';
import type { EncryptionKey } from '../config/config.ts';
import type { FileFormat } from '../shared/file-format.ts';
import { type Aggregation, aggregations } from './aggregations.ts';

/** File that a download link opens, and the creator of the link. */
export interface LinkGrant {
  /** Id of the link in the audit log. Not a secret. */
  readonly linkId: string;
  readonly environmentId: string;
  /** Differs between the environment and a later one with the same id. */
  readonly incarnation: string;
  readonly aggregation: Aggregation;
  /** UTC date; null for the date on which the link is followed. */
  readonly asOf: string | null;
  readonly format: FileFormat;
  readonly compression: 'none' | 'gzip';
  readonly maker: LinkMaker;
}

/** Creator of a link. */
export type LinkMaker =
  | { readonly kind: 'operator'; readonly id: null }
  | { readonly kind: 'api-key' | 'user'; readonly id: string };

export interface LinkTokens {
  sign(grant: LinkGrant, issuedAt: Date, expiresAt: Date): Promise<string>;
  /**
   * Verifies a token. @returns null if it was changed, has expired or was not signed by this
   * service
   */
  verify(token: string, now: Date): Promise<LinkGrant | null>;
}

const algorithm = 'HS256';
const audience = 'warehouse-export download';

/**
 * Maximum length of a token. No signed token is longer; its longest part is the subject of a user.
 */
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
        pq: grant.format === 'parquet',
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

/** Converts claims. @returns null for claims of another version */
function toGrant({ sub, jti, ...claims }: JWTPayload): LinkGrant | null {
  const { agg, gz, pq, day, inc, by } = claims as Record<string, unknown>;
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
    format: pq === true ? 'parquet' : 'csv',
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
