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

/** User of the operator's identity provider, with the rights of the access token. */
export interface User {
  readonly subject: string;
  readonly expiresAt: Date;
  readonly scopes: readonly Scope[];
  readonly environmentIds: readonly string[];
}

export interface UserTokens {
  /**
   * Verifies an access token.
   * @returns the user, or the reason as a sentence if the token is invalid
   * @throws AppError `unavailable` if the issuer's keys cannot be fetched
   */
  verify(token: string, now: Date): Promise<User | string>;
}

/**
 * Only asymmetric algorithms. With HS256 the public key of the issuer would serve as the secret.
 */
const algorithms = ['RS256', 'ES256', 'EdDSA'];

/** Limit in characters, because log, audit log and rate limits store the subject. */
const maxSubjectLength = 256;

/** Last instant that a Date can hold. `exp` may be any number. */
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
        if (error instanceof errors.JWTClaimValidationFailed) return claimError(error.claim);
        // Forged and foreign tokens, and issuer keys that cannot verify any token, such as short
        // ones.
        return 'The token is not one that the identity provider has signed.';
      }
    },
  };
}

/**
 * Verifies a token. A token without `kid` is tried with each key of the issuer that fits.
 * @throws JOSEError
 */
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

/** Returns true if a token has the form of a JWT, without checking its content. */
export function isJwtShaped(token: string): boolean {
  return /^[\w-]+\.[\w-]+\.[\w-]*$/.test(token);
}

/** Describes an invalid claim. Only callers with a valid signature receive it. */
function claimError(claim: string): string {
  return `The claim ${claim} of the token is missing or invalid.`;
}

function toUser(payload: JWTPayload, { environmentsClaim, scopesClaim }: JwtConfig): User | string {
  const { sub, exp } = payload;
  if (typeof sub !== 'string' || !isSubject(sub)) return claimError('sub');
  const environmentIds = textsOf(payload, environmentsClaim, text => [text]);
  if (environmentIds === null) return claimError(environmentsClaim);
  const granted = Object.hasOwn(payload, scopesClaim)
    ? textsOf(payload, scopesClaim, text => text.split(' '))
    : [];
  if (granted === null) return claimError(scopesClaim);
  return {
    subject: sub,
    expiresAt: new Date(Math.min((exp ?? 0) * 1000, lastInstantMs)),
    scopes: scopes.filter(scope => granted.includes(scope)),
    environmentIds,
  };
}

/** Returns true if a log, a header and the database can hold the text. */
function isSubject(text: string): boolean {
  return (
    text !== '' && text.length <= maxSubjectLength && text.isWellFormed() && !/\p{Cc}/u.test(text)
  );
}

/** Returns the texts of a claim that is a string or a list of strings, else null. */
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
