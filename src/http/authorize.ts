import { createHash, timingSafeEqual } from 'node:crypto';
import type { FastifyInstance, FastifyRequest, RouteOptions } from 'fastify';
import type { Database } from '../db/database.ts';
import { verifyApiKey } from '../environments/api-keys.ts';
import type { Environment } from '../environments/environments.ts';
import { findEnvironment, isEnvironmentId } from '../environments/environments.ts';
import { type Feature, planAllows, requiredPlan } from '../environments/plans.ts';
import { type Scope, scopesAllow } from '../environments/scopes.ts';
import { AppError, notFound, validationFailed } from '../errors.ts';
import type { Access } from './access.ts';

interface AuthorizeDependencies {
  readonly db: Database;
  readonly adminToken: string;
  readonly now: () => Date;
}

/**
 * Decides before the body is read: who calls (401), whether the environment is there and theirs (404), whether the
 * key has the scope (403), whether the plan has the feature (403).
 */
export function registerAuthorization(app: FastifyInstance, dependencies: AuthorizeDependencies): void {
  app.decorateRequest('caller', null);
  app.decorateRequest('environment', null);

  const routes: RouteOptions[] = [];
  app.addHook('onRoute', route => {
    routes.push(route);
  });
  app.addHook('onReady', done => {
    const silent = routes.find(route => route.config?.access === undefined);
    done(silent && new Error(`${silent.method} ${silent.url} does not say who may call it`));
  });

  app.addHook('onRequest', async request => {
    const access = request.routeOptions.config.access;
    if (request.is404 || access === 'public' || access === undefined) return;
    await authorize(dependencies, request, access);
  });
}

async function authorize(
  { db, adminToken, now }: AuthorizeDependencies,
  request: FastifyRequest,
  access: Exclude<Access, 'public'>,
): Promise<void> {
  const token = bearerToken(request);
  const isOperator = sameText(token, adminToken);
  const apiKey = isOperator ? null : await verifyApiKey(db, token, now());
  if (!isOperator && apiKey === null) throw unauthenticated('The token is unknown, revoked or expired.');
  request.caller = apiKey === null ? { kind: 'operator' } : { kind: 'api-key', keyId: apiKey.id };

  const environmentId = (request.params as { environmentId?: string }).environmentId;
  if (environmentId !== undefined) {
    if (!isEnvironmentId(environmentId)) {
      throw validationFailed([{ path: '/path/environmentId', message: 'is not an environment id' }]);
    }
    if (apiKey !== null && apiKey.environment.id !== environmentId) throw notFound('environment');
  }
  if (access === 'operator') {
    if (!isOperator) throw operatorOnly();
    return;
  }

  const environment = apiKey?.environment ?? (await findEnvironment(db, environmentId ?? ''));
  if (environment === null) throw notFound('environment');
  request.environment = environment;
  if (access.environment === 'operator' && !isOperator) throw operatorOnly();
  if (apiKey !== null && access.environment !== 'operator' && access.environment !== 'member') {
    requireScope(apiKey.scopes, access.environment);
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
export function requireScope(granted: readonly Scope[], needed: Scope): void {
  if (scopesAllow(granted, needed)) return;
  throw new AppError('insufficient_scope', `This needs an API key with the scope ${needed}.`);
}

export function unauthenticated(detail: string): AppError {
  return new AppError('unauthenticated', detail, { headers: { 'www-authenticate': 'Bearer' } });
}

function operatorOnly(): AppError {
  return new AppError('insufficient_scope', 'Only the operator token may do this.');
}

function bearerToken(request: FastifyRequest): string {
  const [, token] = /^Bearer +([\x21-\x7e]+) *$/i.exec(request.headers.authorization ?? '') ?? [];
  if (token === undefined) throw unauthenticated('Send the header Authorization: Bearer <token>.');
  return token;
}

/** In a time that does not tell how much of it was right. */
function sameText(left: string, right: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(left), digest(right));
}
