import { isDeepStrictEqual } from 'node:util';
import type { Transaction } from 'kysely';
import { type Actor, recordChange } from '../audit/audit-log-repository.ts';
import type { Database, DatabaseOrTransaction } from '../db/database.ts';
import type { Tables } from '../db/tables.ts';
import { type EncryptionKeys, openSecret, sealSecret } from '../encryption/secrets.ts';
import { notFound } from '../shared/errors.ts';
import { defaultEventTypes, type EventType, sortEventTypes } from './events.ts';
import { makeWebhookSecret } from './signature.ts';

/** Webhook of an environment, which receives events of its exports. */
export interface Webhook {
  readonly environmentId: string;
  readonly url: string;
  readonly sealedSecret: string;
}

/** Settings of a webhook. */
export interface WebhookSettings {
  readonly url: string;
  /** Events that it receives. */
  readonly events: readonly EventType[];
}

interface SavedWebhook {
  readonly settings: WebhookSettings;
  readonly created: boolean;
  /** Secret of a webhook that is new or has another URL. It cannot be read again. */
  readonly secret: string | null;
}

/**
 * Sets the webhook. Another URL gets another secret, so that the old receiver can sign nothing for
 * the new one. The caller holds a lock on the row of the environment, which serializes changes. The
 * audit log records changes without the URL, because a URL may be a secret.
 *
 * @param events `kept` keeps the events of the current webhook; a new webhook gets the default
 */
export async function setWebhook(
  trx: Transaction<Tables>,
  actor: Actor,
  keys: EncryptionKeys,
  environmentId: string,
  url: string,
  events: readonly EventType[] | 'kept',
): Promise<SavedWebhook> {
  const before = await findWebhookSettings(trx, environmentId);
  const settings = {
    url,
    events: sortEventTypes(events === 'kept' ? (before?.events ?? defaultEventTypes) : events),
  };
  const changed = [
    ...(before?.url === url ? [] : ['url']),
    ...(isDeepStrictEqual(before?.events, settings.events) ? [] : ['events']),
  ];
  if (before !== null && changed.length === 0) return { settings, created: false, secret: null };
  const secret = before?.url === url ? null : makeWebhookSecret();
  if (secret === null) {
    await trx
      .updateTable('failure_webhooks')
      .set({ events: settings.events })
      .where('environment_id', '=', environmentId)
      .execute();
  } else {
    const values = { ...settings, sealed_secret: seal(keys, environmentId, secret) };
    await trx
      .insertInto('failure_webhooks')
      .values({ environment_id: environmentId, ...values })
      .onConflict(conflict => conflict.column('environment_id').doUpdateSet(values))
      .execute();
  }
  await recordChange(trx, actor, {
    environmentId,
    action: before === null ? 'failure_webhook.created' : 'failure_webhook.updated',
    targetId: environmentId,
    details: { ...(before !== null && { changed }), events: settings.events },
  });
  return { settings, created: before === null, secret };
}

/**
 * Deletes the webhook and its secret.
 * @returns false if there is none
 */
export async function removeWebhook(
  trx: Transaction<Tables>,
  actor: Actor,
  environmentId: string,
): Promise<boolean> {
  const result = await trx
    .deleteFrom('failure_webhooks')
    .where('environment_id', '=', environmentId)
    .executeTakeFirst();
  if (result.numDeletedRows === 0n) return false;
  const action = 'failure_webhook.deleted';
  await recordChange(trx, actor, { environmentId, action, targetId: environmentId });
  return true;
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
    if (result.numUpdatedRows === 0n) throw notFound('webhook');
    const action = 'failure_webhook.secret_rotated';
    await recordChange(trx, actor, { environmentId, action, targetId: environmentId });
  });
  return secret;
}

export async function findWebhook(
  db: DatabaseOrTransaction,
  environmentId: string,
): Promise<Webhook | null> {
  const row = await db
    .selectFrom('failure_webhooks')
    .selectAll()
    .where('environment_id', '=', environmentId)
    .executeTakeFirst();
  return row === undefined
    ? null
    : { environmentId, url: row.url, sealedSecret: row.sealed_secret };
}

/** Returns the settings of a webhook; null if the environment has none. */
export async function findWebhookSettings(
  db: DatabaseOrTransaction,
  environmentId: string,
): Promise<WebhookSettings | null> {
  return (await listWebhookSettings(db, [environmentId])).get(environmentId) ?? null;
}

/** Returns webhooks by environment. Environments without a webhook are absent. */
export async function listWebhookSettings(
  db: DatabaseOrTransaction,
  environmentIds: readonly string[],
): Promise<ReadonlyMap<string, WebhookSettings>> {
  if (environmentIds.length === 0) return new Map();
  const rows = await db
    .selectFrom('failure_webhooks')
    .select(['environment_id', 'url', 'events'])
    .where('environment_id', 'in', environmentIds)
    .execute();
  return new Map(
    // The check constraint allows no other events.
    rows.map(({ environment_id, url, events }) => [
      environment_id,
      { url, events: events as EventType[] },
    ]),
  );
}

/**
 * Decrypts the secret of a webhook.
 * @throws Error if its encryption key is not configured any more
 */
export function webhookSecretOf(
  keys: EncryptionKeys,
  { environmentId, sealedSecret }: Webhook,
): string {
  return openSecret(keys, sealedSecret, { environmentId, configId: null });
}

function seal(keys: EncryptionKeys, environmentId: string, secret: string): string {
  return sealSecret(keys, secret, { environmentId, configId: null });
}
