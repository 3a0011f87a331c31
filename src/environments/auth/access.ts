import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Actor } from '../../audit/audit-log-repository.ts';
import { callerRequestId } from '../../http/request-id.ts';
import type { Environment } from '../environments-repository.ts';
import type { Feature } from '../plans.ts';
import type { Scope } from './scopes.ts';

/**
 * Callers that may use a route. Every route states it in its `config`; otherwise the app does not
 * start.
 * - `public`: anyone. The token is not read.
 * - `operator`: only the operator token.
 * - `{ environment }`: the environment must exist and belong to the caller. The value is
 *   a required scope, a list of which one is required, `member` for any token of the environment,
 *   or `operator`. If `feature` is present, the plan must include it.
 */
export type Access =
  | 'public'
  | 'operator'
  | {
      readonly environment: Scope | readonly Scope[] | 'member' | 'operator';
      readonly feature?: Feature;
    };

/** Party that sends a request. */
export type Caller =
  | { readonly kind: 'operator' }
  | { readonly kind: 'api-key'; readonly keyId: string }
  /**
   * User of the operator's identity provider: the claim `sub`, and the expiry of the access token.
   */
  | { readonly kind: 'user'; readonly subject: string; readonly expiresAt: Date };

declare module 'fastify' {
  interface FastifyContextConfig {
    access?: Access;
    /** True if the route limits its requests itself, because they take long. */
    hasOwnLimit?: boolean;
  }
  interface FastifyRequest {
    caller: Caller | null;
    environment: Environment | null;
  }
}

/** Returns the environment of a route whose access is in an environment. */
export function environmentOf(request: FastifyRequest): Environment {
  if (request.environment === null) throw new Error('This route has no environment.');
  return request.environment;
}

/** Returns the caller of a route that is not public. */
export function callerOf(request: FastifyRequest): Caller {
  if (request.caller === null) throw new Error('This route has no caller.');
  return request.caller;
}

/** Sets the caller and names it in every later log line of the request. */
export function setCaller(request: FastifyRequest, reply: FastifyReply, caller: Caller): void {
  request.caller = caller;
  logCaller(request, reply, actorOf(request));
}

/** Names the author of a request in every later log line of it. */
export function logCaller(
  request: FastifyRequest,
  reply: FastifyReply,
  { kind, id }: Pick<Actor, 'kind' | 'id'>,
): void {
  const log = request.log.child({ caller: id === null ? { kind } : { kind, id } });
  request.log = log;
  reply.log = log;
}

/** Returns the caller as the audit log names it. */
export function actorOf(request: FastifyRequest): Actor {
  const caller = callerOf(request);
  switch (caller.kind) {
    case 'operator':
      return actorIn(request, { kind: 'operator', id: null });
    case 'api-key':
      return actorIn(request, { kind: 'api-key', id: caller.keyId });
    case 'user':
      return actorIn(request, { kind: 'user', id: caller.subject });
  }
}

/** Adds the ids of the request to the author of a change. */
export function actorIn(request: FastifyRequest, author: Pick<Actor, 'kind' | 'id'>): Actor {
  const callerId = callerRequestId(request.headers);
  return { ...author, requestId: request.id, callerRequestId: callerId };
}
