import { createHash } from 'node:crypto';
import rateLimit, { normalizeIP } from '@fastify/rate-limit';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Actor } from '../../audit/audit-log-repository.ts';
import { AppError } from '../../shared/errors.ts';
import { actorOf } from './access.ts';
import { createWindowStore } from './window-store.ts';

interface RateLimitOptions {
  /** Requests per minute and caller; 0 for no limit. */
  readonly perCaller: number;
  /** Failed authentications per minute and address; 0 for no limit. */
  readonly failedLogins: number;
  readonly now: () => Date;
}

type CountedCaller = Pick<Actor, 'kind' | 'id'>;

/** Rate limits. The asynchronous methods throw AppError `rate_limited` when a limit is exceeded. */
export interface RateLimits {
  /** Counts a request of an authenticated caller. Requests of the operator are not counted. */
  countRequest(request: FastifyRequest): Promise<void>;
  /**
   * Counts a request by download link with the requests of its creator. Each link of the operator
   * has its own count.
   */
  countLinkRequest(request: FastifyRequest, linkId: string, maker: CountedCaller): Promise<void>;
  /** Checks the address of the request. Call this before any look-up for the token. */
  admitLogin(request: FastifyRequest, token: string): Promise<void>;
  countFailedLogin(request: FastifyRequest, token: string | null): Promise<void>;
  /**
   * Admits this token from this address in future, despite other failures, until the token itself
   * fails.
   */
  rememberLogin(request: FastifyRequest, token: string): void;
}

const windowMs = 60_000;

/**
 * Most callers, addresses and tokens that are remembered. The least recently used are dropped
 * first.
 */
const maxRemembered = 10_000;

/** Registers the counters. They count per process, so N processes allow N times the limit. */
export async function registerRateLimits(
  app: FastifyInstance,
  { perCaller, failedLogins, now }: RateLimitOptions,
): Promise<RateLimits> {
  const store = createWindowStore(now, maxRemembered);
  // No limit by route: the caller is known only after authentication.
  await app.register(rateLimit, { global: false, store });
  const requestKeys = new WeakMap<FastifyRequest, string>();
  const requests = app.createRateLimit({
    max: perCaller,
    timeWindow: windowMs,
    keyGenerator: request => requestKeys.get(request) ?? '',
  });
  const failures = app.createRateLimit({
    max: failedLogins,
    timeWindow: windowMs,
    keyGenerator: addressKey,
  });
  const proven = new Set<string>();

  const count = async (request: FastifyRequest, key: string) => {
    if (perCaller === 0) return;
    requestKeys.set(request, key);
    const counted = await requests(request);
    if (counted.isAllowed || !counted.isExceeded) return;
    throw rateLimited(`No more than ${perCaller} requests a minute.`, counted.ttlInSeconds);
  };

  const refuseBlocked = async (request: FastifyRequest) => {
    const counted = await failures(request, { increment: false });
    if (counted.isAllowed || counted.remaining > 0) return;
    throw rateLimited(
      'Too many requests without a valid token from this address.',
      counted.ttlInSeconds,
    );
  };

  return {
    async countRequest(request) {
      const caller = actorOf(request);
      if (caller.kind !== 'operator') await count(request, callerKey(caller));
    },
    async countLinkRequest(request, linkId, maker) {
      await count(request, maker.kind === 'operator' ? `link ${linkId}` : callerKey(maker));
    },
    async admitLogin(request, token) {
      if (failedLogins === 0 || proven.has(loginKey(request, token))) return;
      await refuseBlocked(request);
    },
    async countFailedLogin(request, token) {
      if (failedLogins === 0) return;
      if (token !== null) proven.delete(loginKey(request, token));
      await refuseBlocked(request);
      await failures(request);
    },
    rememberLogin(request, token) {
      if (failedLogins === 0) return;
      const key = loginKey(request, token);
      proven.delete(key);
      proven.add(key);
      const [oldest] = proven;
      if (proven.size > maxRemembered && oldest !== undefined) proven.delete(oldest);
    },
  };
}

function callerKey({ kind, id }: CountedCaller): string {
  return `${kind} ${id}`;
}

/**
 * Returns the address of a caller. An IPv6 /64 counts as one address, because a caller can use any
 * address in it. A caller that has disconnected has no address.
 */
function addressKey(request: FastifyRequest): string {
  const address = request.ip as string | undefined;
  return address === undefined ? 'gone' : normalizeIP(address);
}

/**
 * Returns a key of token and address, so that guesses from other addresses are still slowed down.
 */
function loginKey(request: FastifyRequest, token: string): string {
  return createHash('sha256')
    .update(`${addressKey(request)} ${token}`)
    .digest('base64');
}

function rateLimited(detail: string, retryAfterSeconds: number): AppError {
  return new AppError('rate_limited', `${detail} Try again later.`, {
    headers: { 'retry-after': String(Math.max(1, retryAfterSeconds)) },
  });
}
