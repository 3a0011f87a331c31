import type { FastifyRequest } from 'fastify';
import type { Actor } from '../../audit/audit-log.ts';
import type { Environment } from '../environments-repository.ts';
import type { Feature } from '../plans.ts';
import type { Scope } from './scopes.ts';

/**
 * Who may call a route. Every route states it in its `config`; a route that does not is refused at start.
 * - `public`: anyone, no token looked at
 * - `operator`: the operator token alone
 * - in an environment, which must exist and be the caller's own: with a scope, with any token of it (`member`), or the
 *   operator alone; where `feature` is named, the environment's plan must have it
 */
export type Access =
  | 'public'
  | 'operator'
  | { readonly environment: Scope | 'member' | 'operator'; readonly feature?: Feature };

/** Who calls. */
export type Caller =
  | { readonly kind: 'operator' }
  | { readonly kind: 'api-key'; readonly keyId: string }
  /** Of the operator's identity provider: its `sub`, and when the access token ends. */
  | { readonly kind: 'user'; readonly subject: string; readonly expiresAt: Date };

declare module 'fastify' {
  interface FastifyContextConfig {
    access?: Access;
  }
  interface FastifyRequest {
    caller: Caller | null;
    environment: Environment | null;
  }
}

/** The environment of a route whose access is in an environment. */
export function environmentOf(request: FastifyRequest): Environment {
  if (request.environment === null) throw new Error('This route has no environment.');
  return request.environment;
}

/** The caller of a route that is not public. */
export function callerOf(request: FastifyRequest): Caller {
  if (request.caller === null) throw new Error('This route has no caller.');
  return request.caller;
}

/** The caller as the audit log names them. */
export function actorOf(request: FastifyRequest): Actor {
  const caller = callerOf(request);
  const { id: requestId } = request;
  switch (caller.kind) {
    case 'operator':
      return { kind: 'operator', id: null, requestId };
    case 'api-key':
      return { kind: 'api-key', id: caller.keyId, requestId };
    case 'user':
      return { kind: 'user', id: caller.subject, requestId };
  }
}
