import { randomUUID } from 'node:crypto';
import type { Database } from '../db/database.ts';
import type { ClientEnvironment } from '../destinations/s3-client.ts';
import type { EncryptionKeys } from '../destinations/secrets.ts';
import { notFound } from '../errors.ts';
import { findFailureWebhook, webhookSecretOf } from './failure-webhooks.ts';
import { type SendResult, sendWebhook } from './send-webhook.ts';

export interface WebhookDependencies {
  readonly db: Database;
  readonly encryptionKeys: EncryptionKeys;
  readonly clientEnvironment: ClientEnvironment;
  readonly now: () => Date;
}

/** Sends one message that is about nothing, once. @throws AppError `not_found` */
export async function tryFailureWebhook(
  { db, encryptionKeys, clientEnvironment, now }: WebhookDependencies,
  environmentId: string,
): Promise<SendResult> {
  const webhook = await findFailureWebhook(db, environmentId);
  if (webhook === null) throw notFound('failure webhook');
  const secret = webhookSecretOf(encryptionKeys, webhook);
  const sentAt = now();
  const data = { environmentId };
  const body = JSON.stringify({ type: 'webhook.test', timestamp: sentAt.toISOString(), data });
  return await sendWebhook(clientEnvironment, webhook.url, secret, { id: randomUUID(), body }, sentAt);
}
