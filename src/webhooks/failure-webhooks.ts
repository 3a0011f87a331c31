import type { Transaction } from 'kysely';
import { type Actor, recordChange } from '../audit/audit-log.ts';
import type { Database, DatabaseOrTransaction } from '../db/database.ts';
import type { Tables } from '../db/tables.ts';
import { type EncryptionKeys, openSecret, sealSecret } from '../encryption/secrets.ts';
import { notFound } from '../shared/errors.ts';
import { makeWebhookSecret } from './signature.ts';

/**
 * Webhook of an environment, which receives failures of its exports. At most one per environment.
 */
export interface FailureWebhook {
  readonly environmentId: string;
  readonly url: string;
  readonly sealedSecret: string;
}

/**
 * Sets the webhook. Another URL gets another secret, so that the old receiver can sign nothing for
 * the new one. The caller holds a lock on the row of the environment, which serializes changes. The
 * audit log records changes without the URL, because a URL may be a secret.
 *
 * @returns the new secret, which cannot be read again; null if the URL is unchanged
 */
export async function setFailureWebhook(
  trx: Transaction<Tables>,
  actor: Actor,
  keys: EncryptionKeys,
  environmentId: string,
  url: string,
): Promise<string | null> {
  const before = await findFailureWebhook(trx, environmentId);
  if (before?.url === url) return null;
  const secret = makeWebhookSecret();
  const values = { url, sealed_secret: seal(keys, environmentId, secret) };
  await trx
    .insertInto('failure_webhooks')
    .values({ environment_id: environmentId, ...values })
    .onConflict(conflict => conflict.column('environment_id').doUpdateSet(values))
    .execute();
  const action = before === null ? 'failure_webhook.created' : 'failure_webhook.updated';
  await recordChange(trx, actor, { environmentId, action, targetId: environmentId });
  return secret;
}

/** Deletes the webhook and its secret. Does nothing if there is none. */
export async function removeFailureWebhook(
  trx: Transaction<Tables>,
  actor: Actor,
  environmentId: string,
): Promise<void> {
  const result = await trx
    .deleteFrom('failure_webhooks')
    .where('environment_id', '=', environmentId)
    .executeTakeFirst();
  if (result.numDeletedRows === 0n) return;
  const action = 'failure_webhook.deleted';
  await recordChange(trx, actor, { environmentId, action, targetId: environmentId });
}

/**
 * Replaces the secret. The next delivery uses the new one.
 * @throws AppError `not_found`
 */
export async function rotateWebhookSecret(
  db: Database,
  actor: Actor,
  keys: EncryptionKeys,
  environmentId: string,
): Promise<string> {
  const secret = makeWebhookSecret();
  await db.transaction().execute(async trx => {
    const result = await trx
      .updateTable('failure_webhooks')
      .set({ sealed_secret: seal(keys, environmentId, secret) })
      .where('environment_id', '=', environmentId)
      .executeTakeFirst();
    if (result.numUpdatedRows === 0n) throw notFound('failure webhook');
    const action = 'failure_webhook.secret_rotated';
    await recordChange(trx, actor, { environmentId, action, targetId: environmentId });
  });
  return secret;
}

export async function findFailureWebhook(
  db: DatabaseOrTransaction,
  environmentId: string,
): Promise<FailureWebhook | null> {
  const row = await db
    .selectFrom('failure_webhooks')
    .selectAll()
    .where('environment_id', '=', environmentId)
    .executeTakeFirst();
  return row === undefined
    ? null
    : { environmentId, url: row.url, sealedSecret: row.sealed_secret };
}

/** Returns URLs by environment. Environments without a webhook are absent. */
export async function listFailureWebhookUrls(
  db: DatabaseOrTransaction,
  environmentIds: readonly string[],
): Promise<ReadonlyMap<string, string>> {
  if (environmentIds.length === 0) return new Map();
  const rows = await db
    .selectFrom('failure_webhooks')
    .select(['environment_id', 'url'])
    .where('environment_id', 'in', environmentIds)
    .execute();
  return new Map(rows.map(row => [row.environment_id, row.url]));
}

/**
 * Decrypts the secret of a webhook.
 * @throws Error if its encryption key is not configured any more
 */
export function webhookSecretOf(
  keys: EncryptionKeys,
  { environmentId, sealedSecret }: FailureWebhook,
): string {
  return openSecret(keys, sealedSecret, { environmentId, configId: null });
}

function seal(keys: EncryptionKeys, environmentId: string, secret: string): string {
  return sealSecret(keys, secret, { environmentId, configId: null });
}
