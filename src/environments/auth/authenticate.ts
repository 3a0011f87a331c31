import { createHash, timingSafeEqual } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import type { Database } from '../../db/database.ts';
import { AppError } from '../../shared/errors.ts';
import type { Environment } from '../environments-repository.ts';
import type { Caller } from './access.ts';
import { verifyApiKey } from './api-keys-repository.ts';
import { isJwtShaped, type UserTokens } from './jwt.ts';
import type { RateLimits } from './rate-limits.ts';
import type { RequestTurns } from './request-turns.ts';
import type { Scope } from './scopes.ts';

export interface AuthenticateDependencies {
  readonly db: Database;
  readonly adminToken: string;
  /** Verifier of user tokens; null if no identity provider is configured. */
  readonly userTokens: UserTokens | null;
  readonly limits: RateLimits;
  readonly requestTurns: RequestTurns;
  readonly now: () => Date;
}

/** Caller of a request and its rights. */
export interface Identity {
  readonly caller: Caller;
  /** Scopes and environments; null for the operator, which has all rights. */
  readonly rights: {
    readonly scopes: readonly Scope[];
    readonly environmentIds: readonly string[];
  } | null;
  /** Environment of an API key, which its look-up reads anyway; null for other callers. */
  readonly environment: Environment | null;
}

/**
 * Identifies the caller of a request by its bearer token.
 * @throws AppError `unauthenticated`; `rate_limited` after too many failures from this address
 */
export async function authenticate(
  dependencies: AuthenticateDependencies,
  request: FastifyRequest,
): Promise<Identity> {
  const { limits, userTokens } = dependencies;
  const token = bearerToken(request);
  if (token === null) {
    await limits.countFailedLogin(request, null);
    throw unauthenticated('Send the header Authorization: Bearer <token>.');
  }
  const identity =
    userTokens !== null && isJwtShaped(token) && !isOperator(dependencies, token)
      ? await findUser(userTokens, token, dependencies.now())
      : await findOperatorOrKey(dependencies, request, token);
  if (typeof identity !== 'string') return identity;
  await limits.countFailedLogin(request, token);
  throw unauthenticated(identity);
}

/**
 * Verifies a user token, and returns the reason as text if it is invalid. Failed logins do not
 * block user tokens: a valid signature cannot be guessed, and its check needs no database.
 */
async function findUser(
  userTokens: UserTokens,
  token: string,
  now: Date,
): Promise<Identity | string> {
  const user = await userTokens.verify(token, now);
  if (typeof user === 'string') return user;
  const { subject, expiresAt, ...rights } = user;
  return { caller: { kind: 'user', subject, expiresAt }, rights, environment: null };
}

async function findOperatorOrKey(
  dependencies: AuthenticateDependencies,
  request: FastifyRequest,
  token: string,
): Promise<Identity | string> {
  const { db, limits, requestTurns, now } = dependencies;
  await limits.admitLogin(request, token);
  if (isOperator(dependencies, token)) {
    limits.rememberLogin(request, token);
    return { caller: { kind: 'operator' }, rights: null, environment: null };
  }
  // The look-ups of one key wait for each other, so that its burst does not delay other keys.
  const apiKey = await requestTurns.run(tokenStart(token), () => verifyApiKey(db, token, now()));
  if (apiKey === null) return 'The token is unknown, revoked or expired.';
  limits.rememberLogin(request, token);
  const { id, scopes, environment } = apiKey;
  return {
    caller: { kind: 'api-key', keyId: id },
    rights: { scopes, environmentIds: [environment.id] },
    environment,
  };
}

export function unauthenticated(detail: string): AppError {
  return new AppError('unauthenticated', detail, { headers: { 'www-authenticate': 'Bearer' } });
}

function bearerToken(request: FastifyRequest): string | null {
  const [, token] = /^Bearer +([\x21-\x7e]+) *$/i.exec(request.headers.authorization ?? '') ?? [];
  return token ?? null;
}

/** Returns the start of a token, which for an API key is `whx_` and its id. */
function tokenStart(token: string): string {
  return token.slice(0, 20);
}

/** Compares in constant time. */
function isOperator({ adminToken }: AuthenticateDependencies, token: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(token), digest(adminToken));
}
