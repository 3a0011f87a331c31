import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import type { Database } from '../db/database.ts';
import type { ClientEnvironment } from '../destinations/s3/client.ts';
import type { EncryptionKeys } from '../encryption/secrets.ts';
import { notFound } from '../shared/errors.ts';
import type { SendResult } from './send-webhook.ts';
import { signAndSend } from './sign-and-send.ts';
import { findWebhook } from './webhooks-repository.ts';

export interface WebhookDependencies {
  readonly log: Logger;
  readonly db: Database;
  readonly encryptionKeys: EncryptionKeys;
  readonly clientEnvironment: ClientEnvironment;
  readonly now: () => Date;
}

/**
 * Sends one test message without retries.
 * @throws AppError `not_found`
 */
export async function tryWebhook(
  dependencies: WebhookDependencies,
  environmentId: string,
): Promise<SendResult> {
  const webhook = await findWebhook(dependencies.db, environmentId);
  if (webhook === null) throw notFound('webhook');
  const sentAt = dependencies.now();
  const data = { environmentId };
  const body = JSON.stringify({ type: 'webhook.test', timestamp: sentAt.toISOString(), data });
  return await signAndSend(dependencies, webhook, { id: randomUUID(), body }, sentAt);
}
