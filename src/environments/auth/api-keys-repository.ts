import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { type Actor, recordChange } from '../../audit/audit-log-repository.ts';
import type { Database } from '../../db/database.ts';
import { isAfter, type ListPosition } from '../../db/newest-first.sql.ts';
import { notFound } from '../../shared/errors.ts';
import {
  type Environment,
  lockEnvironment,
  requireRoom,
  toEnvironment,
} from '../environments-repository.ts';
import type { Scope } from './scopes.ts';

/** An API key without its secret. */
export interface ApiKey {
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly expiresAt: string | null;
  readonly createdAt: string;
}

/** Maximum number of API keys of one environment, expired ones included. */
export const maxApiKeys = 100;

const tokenPattern = /^whx_([0-9a-f]{16})_([0-9a-f]{64})$/;

/**
 * Creates an API key.
 * @returns the key and its token `whx_<id>_<secret>`, which is not stored and cannot be read again
 * @throws AppError `conflict` if the environment has `maxApiKeys`
 */
export async function createApiKey(
  db: Database,
  actor: Actor,
  input: { environmentId: string; name: string; scopes: readonly Scope[]; expiresAt: Date | null },
): Promise<{ apiKey: ApiKey; token: string }> {
  const id = randomBytes(8).toString('hex');
  const secret = randomBytes(32).toString('hex');
  const values = {
    environment_id: input.environmentId,
    id,
    name: input.name,
    scopes: [...new Set(input.scopes)],
    secret_hash: hashSecret(secret),
    expires_at: input.expiresAt,
  };
  const apiKey = await db.transaction().execute(async trx => {
    await lockEnvironment(trx, input.environmentId);
    const { count } = await trx
      .selectFrom('api_keys')
      .select(eb => eb.fn.countAll<string>().as('count'))
      .where('environment_id', '=', input.environmentId)
      .executeTakeFirstOrThrow();
    requireRoom(Number(count), maxApiKeys, 'API keys', 'Revoke one first.');
    const made = toApiKey(
      await trx.insertInto('api_keys').values(values).returningAll().executeTakeFirstOrThrow(),
    );
    await recordChange(trx, actor, {
      environmentId: input.environmentId,
      action: 'api_key.created',
      targetId: id,
      details: { scopes: made.scopes, expiresAt: made.expiresAt },
    });
    return made;
  });
  return { apiKey, token: `whx_${id}_${secret}` };
}

/** Lists keys before `before`, newest first. */
export async function listApiKeys(
  db: Database,
  environmentId: string,
  { before, limit }: { before: ListPosition | null; limit: number },
): Promise<ApiKey[]> {
  const rows = await db
    .selectFrom('api_keys')
    .selectAll()
    .where('environment_id', '=', environmentId)
    .where(isAfter('api_keys', before))
    .orderBy('created_at', 'desc')
    .orderBy('id', 'desc')
    .limit(limit)
    .execute();
  return rows.map(toApiKey);
}

/**
 * Revokes a key. Takes effect at the next request in every process.
 * @throws AppError `not_found`
 */
export async function revokeApiKey(
  db: Database,
  actor: Actor,
  environmentId: string,
  id: string,
): Promise<void> {
  await db.transaction().execute(async trx => {
    const result = await trx
      .deleteFrom('api_keys')
      .where('environment_id', '=', environmentId)
      .where('id', '=', id)
      .executeTakeFirst();
    if (result.numDeletedRows === 0n) throw notFound('API key');
    await recordChange(trx, actor, { environmentId, action: 'api_key.revoked', targetId: id });
  });
}

interface KnownApiKey {
  readonly id: string;
  readonly scopes: readonly Scope[];
  readonly environment: Environment;
}

/**
 * Verifies a token.
 * @returns the key and its environment; null if the token is malformed, unknown, revoked or expired
 */
export async function verifyApiKey(
  db: Database,
  token: string,
  now: Date,
): Promise<KnownApiKey | null> {
  const [, id, secret] = tokenPattern.exec(token) ?? [];
  if (id === undefined || secret === undefined) return null;
  return await findKey(db, id, now, hash => timingSafeEqual(hash, hashSecret(secret)));
}

/**
 * Finds a key without its secret, for callers that proved it earlier, such as with a signed link.
 * @returns the key and its environment; null if the key is revoked or expired
 */
export async function findApiKey(db: Database, id: string, now: Date): Promise<KnownApiKey | null> {
  return await findKey(db, id, now, () => true);
}

async function findKey(
  db: Database,
  id: string,
  now: Date,
  isRight: (secretHash: Buffer) => boolean,
): Promise<KnownApiKey | null> {
  const row = await db
    .selectFrom('api_keys as key')
    .innerJoin('environments as environment', 'environment.id', 'key.environment_id')
    .selectAll('environment')
    .select(['key.id as key_id', 'key.scopes', 'key.secret_hash', 'key.expires_at'])
    .where('key.id', '=', id)
    .executeTakeFirst();
  if (row === undefined || !isRight(row.secret_hash)) return null;
  if (row.expires_at !== null && row.expires_at <= now) return null;
  return { id: row.key_id, scopes: row.scopes as Scope[], environment: toEnvironment(row) };
}

/** Hashes a secret. It has 256 random bits, so SHA-256 is as safe as a slow hash. */
function hashSecret(secret: string): Buffer {
  return createHash('sha256').update(secret).digest();
}

function toApiKey(row: {
  id: string;
  name: string;
  scopes: string[];
  expires_at: Date | null;
  created_at: Date;
}): ApiKey {
  return {
    id: row.id,
    name: row.name,
    scopes: row.scopes as Scope[],
    expiresAt: row.expires_at?.toISOString() ?? null,
    createdAt: row.created_at.toISOString(),
  };
}
