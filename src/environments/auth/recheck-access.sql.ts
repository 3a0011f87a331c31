import type { Actor } from '../../audit/audit-log-repository.ts';
import type { Database, DatabaseOrTransaction } from '../../db/database.ts';
import { notFound } from '../../shared/errors.ts';
import { type Environment, findEnvironment } from '../environments-repository.ts';
import type { Caller } from './access.ts';
import { findApiKey } from './api-keys-repository.ts';
import { unauthenticated } from './authenticate.ts';
import { requireScope } from './authorize.ts';
import type { Scope } from './scopes.ts';

/**
 * Repeats the access checks at the end of a long request. The rows stay locked until
 * the transaction ends, so that a deletion or revocation waits for it.
 *
 * @throws AppError `not_found` if the environment was deleted, also if a new one has its id;
 *   `unauthenticated` if the token was revoked or expired; `insufficient_scope`
 */
export async function recheckAccess(
  trx: DatabaseOrTransaction,
  request: {
    readonly environment: Environment;
    readonly caller: Caller;
    readonly scope: Scope;
    readonly now: Date;
  },
): Promise<void> {
  const { environment, caller, scope, now } = request;
  const found = await trx
    .selectFrom('environments')
    .select('id')
    .where('id', '=', environment.id)
    .where('created_at', '=', new Date(environment.createdAt))
    .forKeyShare()
    .executeTakeFirst();
  if (found === undefined) throw notFound('environment');
  if (caller.kind === 'operator') return;
  if (caller.kind === 'user') {
    if (caller.expiresAt <= now) throw noLongerValid();
    return;
  }
  const key = await trx
    .selectFrom('api_keys')
    .select(['scopes', 'expires_at'])
    .where('environment_id', '=', environment.id)
    .where('id', '=', caller.keyId)
    .forKeyShare()
    .executeTakeFirst();
  if (key === undefined || (key.expires_at !== null && key.expires_at <= now))
    throw noLongerValid();
  requireScope(key.scopes as Scope[], scope);
}

function noLongerValid() {
  return unauthenticated('The token was revoked or expired while the request ran.');
}

/** Access that a caller passed on, such as with a signed link. */
export interface Grant {
  readonly environmentId: string;
  /** Differs between the environment and a later one with the same id. */
  readonly incarnation: string;
  readonly maker: Pick<Actor, 'kind' | 'id'>;
}

/**
 * Returns the environment of a grant if its maker still has access.
 *
 * @returns null if the environment was deleted or the API key was revoked
 * @throws AppError `insufficient_scope`
 */
export async function findEnvironmentOf(
  db: Database,
  { environmentId, incarnation, maker }: Grant,
  scope: Scope,
  now: Date,
): Promise<Environment | null> {
  const apiKey =
    maker.kind === 'api-key' && maker.id !== null ? await findApiKey(db, maker.id, now) : null;
  const environment =
    maker.kind === 'api-key' ? apiKey?.environment : await findEnvironment(db, environmentId);
  if (environment?.id !== environmentId || environment.createdAt !== incarnation) return null;
  if (apiKey !== null) requireScope(apiKey.scopes, scope);
  return environment;
}
