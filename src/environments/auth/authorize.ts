import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify';
import { AppError, notFound, validationFailed } from '../../shared/errors.ts';
import type { Environment } from '../environments-repository.ts';
import { findEnvironment, isEnvironmentId } from '../environments-repository.ts';
import { type Feature, planAllows, requiredPlan } from '../plans.ts';
import { type Access, setCaller } from './access.ts';
import { type AuthenticateDependencies, authenticate } from './authenticate.ts';
import type { RequestTurns } from './request-turns.ts';
import { type Scope, scopesAllow } from './scopes.ts';

/**
 * Authorizes each request before its body is read, in this order:
 * - authentication (401) and rate limit (429)
 * - environment exists and belongs to the caller (404)
 * - scope (403), then plan (403)
 */
export function registerAuthorization(
  app: FastifyInstance,
  dependencies: AuthenticateDependencies,
): void {
  app.decorateRequest('caller', null);
  app.decorateRequest('environment', null);

  const routes: RouteOptions[] = [];
  app.addHook('onRoute', route => {
    routes.push(route);
    handleInTurn(route, dependencies.requestTurns);
  });
  app.addHook('onReady', done => {
    const silent = routes.find(route => route.config?.access === undefined);
    done(silent && new Error(`${silent.method} ${silent.url} does not say who may call it`));
  });

  app.addHook('onRequest', async (request, reply) => {
    const access = request.routeOptions.config.access;
    if (request.is404 || access === 'public' || access === undefined) return;
    await authorize(dependencies, request, reply, access);
  });
}

/**
 * Lets the handler of a route wait for its turn. Requests of the operator do not wait. Routes with
 * their own limit do not wait either, except for HEAD. The wait begins after the body of a short
 * request has arrived, so that a slow sender keeps no turn.
 */
function handleInTurn(route: RouteOptions, turns: RequestTurns): void {
  const { handler } = route;
  route.handler = async function (request, reply) {
    const { caller, environment, method } = request;
    const hasOwnLimit = request.routeOptions.config.hasOwnLimit === true && method !== 'HEAD';
    const work = async () => await handler.call(this, request, reply);
    if (environment === null || caller?.kind === 'operator' || hasOwnLimit) return await work();
    return await turns.run(environment.id, work);
  };
}

async function authorize(
  dependencies: AuthenticateDependencies,
  request: FastifyRequest,
  reply: FastifyReply,
  access: Exclude<Access, 'public'>,
): Promise<void> {
  const identity = await authenticate(dependencies, request);
  const { rights } = identity;
  setCaller(request, reply, identity.caller);
  await dependencies.limits.countRequest(request);

  const environmentId = (request.params as { environmentId?: string }).environmentId;
  if (environmentId !== undefined) {
    if (!isEnvironmentId(environmentId)) {
      throw validationFailed([
        { path: '/path/environmentId', message: 'is not an environment id' },
      ]);
    }
    if (rights !== null && !rights.environmentIds.includes(environmentId))
      throw notFound('environment');
  }
  if (access === 'operator') {
    if (rights !== null) throw operatorOnly();
    return;
  }

  const { db, requestTurns } = dependencies;
  const id = environmentId ?? '';
  const find = () => findEnvironment(db, id);
  const environment =
    identity.environment ?? (await (rights === null ? find() : requestTurns.run(id, find)));
  if (environment === null) throw notFound('environment');
  request.environment = environment;
  if (rights !== null) {
    if (access.environment === 'operator') throw operatorOnly();
    if (access.environment !== 'member') requireScope(rights.scopes, access.environment);
  }
  if (access.feature !== undefined) requirePlan(environment, access.feature);
}

/** @throws AppError `plan_upgrade_required` */
export function requirePlan(environment: Environment, feature: Feature): void {
  if (planAllows(environment.plan, feature)) return;
  const members = { currentPlan: environment.plan, requiredPlan: requiredPlan(feature) };
  const what = feature === 'manual_export' ? 'CSV downloads' : 'automatic exports';
  throw new AppError(
    'plan_upgrade_required',
    `The plan ${members.currentPlan} does not include ${what}; ${members.requiredPlan} does.`,
    { members },
  );
}

/** @throws AppError `insufficient_scope` */
export function requireScope(granted: readonly Scope[], needed: Scope | readonly Scope[]): void {
  const anyOf = [needed].flat();
  if (anyOf.some(scope => scopesAllow(granted, scope))) return;
  const detail = `This needs a token with the scope ${anyOf.join(' or ')}.`;
  throw new AppError('insufficient_scope', detail);
}

function operatorOnly(): AppError {
  return new AppError('insufficient_scope', 'Only the operator token may do this.');
}
