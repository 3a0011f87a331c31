import type { Transaction } from 'kysely';
import type { Actor } from '../audit/audit-log-repository.ts';
import type { Tables } from '../db/tables.ts';
import { validationFailed } from '../shared/errors.ts';
import type { EventType } from '../webhooks/events.ts';
import type { WebhookDependencies } from '../webhooks/try-webhook.ts';
import { parseWebhookUrl } from '../webhooks/webhook-url.ts';
import {
  findWebhookSettings,
  removeWebhook,
  setWebhook,
  type WebhookSettings,
} from '../webhooks/webhooks-repository.ts';
import {
  type Environment,
  type EnvironmentInput,
  putEnvironment,
} from './environments-repository.ts';

interface SavedEnvironment {
  readonly environment: Environment;
  readonly created: boolean;
  readonly webhook: WebhookSettings | null;
  /** Secret of a webhook that is new or has another URL. It cannot be read again. */
  readonly webhookSecret: string | null;
}

interface WebhookInput {
  /** URL; unchanged if absent, removed if null. */
  readonly failureWebhook?: string | null;
  /** Events of the webhook; unchanged if absent. */
  readonly webhookEvents?: readonly EventType[];
}

/**
 * Creates or updates an environment and its webhook in one transaction.
 * @throws AppError `validation_failed`
 */
export async function upsertEnvironment(
  dependencies: WebhookDependencies,
  actor: Actor,
  { failureWebhook, webhookEvents, ...values }: EnvironmentInput & WebhookInput,
): Promise<SavedEnvironment> {
  const url =
    typeof failureWebhook === 'string'
      ? readWebhookUrl(dependencies, failureWebhook, '/failureWebhook')
      : failureWebhook;
  return await dependencies.db.transaction().execute(async trx => {
    const put = await putEnvironment(trx, actor, values);
    const saved = await saveWebhook(dependencies, trx, actor, values.id, url, webhookEvents);
    return { ...put, ...saved };
  });
}

async function saveWebhook(
  { encryptionKeys }: WebhookDependencies,
  trx: Transaction<Tables>,
  actor: Actor,
  environmentId: string,
  given: string | null | undefined,
  events: readonly EventType[] | undefined,
): Promise<Pick<SavedEnvironment, 'webhook' | 'webhookSecret'>> {
  if (given === null) await removeWebhook(trx, actor, environmentId);
  const current = await findWebhookSettings(trx, environmentId);
  const url = given ?? current?.url;
  if (url === undefined) {
    if (events === undefined) return { webhook: null, webhookSecret: null };
    const message = 'needs a webhook that receives the events';
    throw validationFailed([{ path: '/webhookEvents', message }]);
  }
  const kept = events ?? 'kept';
  const saved = await setWebhook(trx, actor, encryptionKeys, environmentId, url, kept);
  return { webhook: saved.settings, webhookSecret: saved.secret };
}

/**
 * Returns the URL in the form in which it is stored.
 * @param path of the field in the body
 * @throws AppError `validation_failed`
 */
export function readWebhookUrl(
  { clientEnvironment }: Pick<WebhookDependencies, 'clientEnvironment'>,
  text: string,
  path: string,
): string {
  const parsed = parseWebhookUrl(text, clientEnvironment.allowlist);
  if (!parsed.ok) throw validationFailed([{ path, message: parsed.error }]);
  return parsed.url;
}
