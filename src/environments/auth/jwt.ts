import {
  errors,
  type JWTPayload,
  type JWTVerifyGetKey,
  type JWTVerifyOptions,
  jwtVerify,
} from 'jose';
import type { JwtConfig } from '../../config/config.ts';
import { AppError } from '../../shared/errors.ts';
import { type Scope, scopes } from './scopes.ts';

/** Someone whom the operator's identity provider knows, and what their access token lets them do. */
export interface User {
  readonly subject: string;
  readonly expiresAt: Date;
  readonly scopes: readonly Scope[];
  readonly environmentIds: readonly string[];
}

export interface UserTokens {
  /**
   * @returns the user, or in a sentence why the token is none
   * @throws AppError `unavailable` where the issuer's keys cannot be fetched
   */
  verify(token: string, now: Date): Promise<User | string>;
}

/** Asymmetric ones alone: with HS256 the issuer's public key would be a secret that everyone has. */
const algorithms = ['RS256', 'ES256', 'EdDSA'];

/** Longer subjects would be a burden on whatever keeps them. */
const maxSubjectLength = 256;

/** `exp` may be any number; this is the last instant that a Date can hold. */
const lastInstantMs = 8.64e15;

export function createUserTokens(config: JwtConfig, keyOf: JWTVerifyGetKey): UserTokens {
  const { issuer, audience } = config;
  return {
    async verify(token, now) {
      try {
        const payload = await verifyWithAnyKey(token, keyOf, {
          algorithms,
          issuer,
          audience,
          currentDate: now,
          requiredClaims: ['exp', 'sub'],
        });
        return toUser(payload, config);
      } catch (error) {
        if (error instanceof AppError) throw error;
        if (error instanceof errors.JWTExpired) return 'The token has expired.';
        if (error instanceof errors.JWTClaimValidationFailed) return claimFault(error.claim);
        // Besides forged and foreign tokens: a key of the issuer that no token can be proven with, such as a short one.
        return 'The token is not one that the identity provider has signed.';
      }
    },
  };
}

/** A token without `kid` may be of any of the issuer's keys that fit. @throws JOSEError */
async function verifyWithAnyKey(
  token: string,
  keyOf: JWTVerifyGetKey,
  options: JWTVerifyOptions,
): Promise<JWTPayload> {
  try {
    return (await jwtVerify(token, keyOf, options)).payload;
  } catch (error) {
    if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error;
    for await (const key of error) {
      try {
        return (await jwtVerify(token, key, options)).payload;
      } catch (failure) {
        if (!(failure instanceof errors.JWSSignatureVerificationFailed)) throw failure;
      }
    }
    throw error;
  }
}

/** Whether a token has the form of a JWT, whatever is in it. */
export function isJwtShaped(token: string): boolean {
  return /^[\w-]+\.[\w-]+\.[\w-]*$/.test(token);
}

/** Said only of tokens whose signature is right. */
function claimFault(claim: string): string {
  return `The token’s claim ${claim} is missing or not as it should be.`;
}

function toUser(payload: JWTPayload, { environmentsClaim, scopesClaim }: JwtConfig): User | string {
  const { sub, exp } = payload;
  if (typeof sub !== 'string' || !isSubject(sub)) return claimFault('sub');
  const environmentIds = textsOf(payload, environmentsClaim, text => [text]);
  if (environmentIds === null) return claimFault(environmentsClaim);
  const granted = Object.hasOwn(payload, scopesClaim)
    ? textsOf(payload, scopesClaim, text => text.split(' '))
    : [];
  if (granted === null) return claimFault(scopesClaim);
  return {
    subject: sub,
    expiresAt: new Date(Math.min((exp ?? 0) * 1000, lastInstantMs)),
    scopes: scopes.filter(scope => granted.includes(scope)),
    environmentIds,
  };
}

/** Text that a log, a header and a database can hold. */
function isSubject(text: string): boolean {
  return (
    text !== '' && text.length <= maxSubjectLength && text.isWellFormed() && !/\p{Cc}/u.test(text)
  );
}

/** A claim that is one text or a list of texts; null: it is neither. */
function textsOf(
  payload: JWTPayload,
  claim: string,
  split: (text: string) => string[],
): string[] | null {
  const value = Object.hasOwn(payload, claim) ? payload[claim] : undefined;
  if (typeof value === 'string') return split(value);
  if (!Array.isArray(value)) return null;
  return value.every(item => typeof item === 'string') ? value : null;
}
