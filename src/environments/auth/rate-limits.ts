import { createHash } from 'node:crypto';
import rateLimit, { normalizeIP } from '@fastify/rate-limit';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Actor } from '../../audit/audit-log.ts';
import { AppError } from '../../shared/errors.ts';
import { actorOf } from './access.ts';
import { createWindowStore } from './window-store.ts';

interface RateLimitOptions {
  /** Requests a minute; 0: no limit. */
  readonly perCaller: number;
  /** Failed authentications a minute and address; 0: no limit. */
  readonly failedLogins: number;
  readonly now: () => Date;
}

type CountedCaller = Pick<Actor, 'kind' | 'id'>;

/** Each throws AppError `rate_limited` where there were too many. */
export interface RateLimits {
  /** Counts a request of a caller who is known by now. The operator is not counted. */
  countRequest(request: FastifyRequest): Promise<void>;
  /** Counts a request by download link with those of its maker, or by itself if made by the operator. */
  countLinkRequest(request: FastifyRequest, linkId: string, maker: CountedCaller): Promise<void>;
  /** To be asked before anything is looked up for a token that came from this address. */
  admitLogin(request: FastifyRequest, token: string): Promise<void>;
  countFailedLogin(request: FastifyRequest, token: string | null): Promise<void>;
  /** From now on this token is let through from this address, however much fails there, until it fails itself. */
  rememberLogin(request: FastifyRequest, token: string): void;
}

const windowMs = 60_000;

/** How many callers, addresses and tokens are remembered; those not heard of for longest are forgotten first. */
const maxRemembered = 10_000;

/** Counters of this process alone: several processes allow several times as much. */
export async function registerRateLimits(
  app: FastifyInstance,
  { perCaller, failedLogins, now }: RateLimitOptions,
): Promise<RateLimits> {
  const store = createWindowStore(now, maxRemembered);
  // Not by route: only who authenticates knows whom to count.
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

/** An IPv6 caller has a /64 to choose addresses from, so that counts as one. A caller who has hung up has none. */
function addressKey(request: FastifyRequest): string {
  const address = request.ip as string | undefined;
  return address === undefined ? 'gone' : normalizeIP(address);
}

/** The address too: guessing a token that is good elsewhere is slowed down. */
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
