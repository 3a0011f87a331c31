import type { Transaction } from 'kysely';
import type { Actor } from '../audit/audit-log.ts';
import type { Tables } from '../db/tables.ts';
import { validationFailed } from '../shared/errors.ts';
import {
  findFailureWebhook,
  removeFailureWebhook,
  setFailureWebhook,
} from '../webhooks/failure-webhooks.ts';
import type { WebhookDependencies } from '../webhooks/try-webhook.ts';
import { parseWebhookUrl } from '../webhooks/webhook-url.ts';
import {
  type Environment,
  type EnvironmentInput,
  putEnvironment,
} from './environments-repository.ts';

interface SavedEnvironment {
  readonly environment: Environment;
  readonly created: boolean;
  readonly failureWebhook: string | null;
  /** Secret of a webhook that is new or has another URL. It cannot be read again. */
  readonly failureWebhookSecret: string | null;
}

/**
 * Creates or updates an environment and its failure webhook in one transaction.
 * @param input `failureWebhook` unchanged if absent, removed if null
 * @throws AppError `validation_failed`
 */
export async function upsertEnvironment(
  dependencies: WebhookDependencies,
  actor: Actor,
  input: EnvironmentInput & { readonly failureWebhook?: string | null },
): Promise<SavedEnvironment> {
  const { failureWebhook, ...values } = input;
  const wanted =
    typeof failureWebhook === 'string' ? readUrl(dependencies, failureWebhook) : failureWebhook;
  return await dependencies.db.transaction().execute(async trx => {
    const put = await putEnvironment(trx, actor, values);
    const secret = await saveWebhook(trx, actor, dependencies.encryptionKeys, values.id, wanted);
    const webhook = await findFailureWebhook(trx, values.id);
    return { ...put, failureWebhook: webhook?.url ?? null, failureWebhookSecret: secret };
  });
}

async function saveWebhook(
  trx: Transaction<Tables>,
  actor: Actor,
  keys: WebhookDependencies['encryptionKeys'],
  environmentId: string,
  wanted: string | null | undefined,
): Promise<string | null> {
  if (typeof wanted === 'string')
    return await setFailureWebhook(trx, actor, keys, environmentId, wanted);
  if (wanted === null) await removeFailureWebhook(trx, actor, environmentId);
  return null;
}

function readUrl({ clientEnvironment }: WebhookDependencies, text: string): string {
  const parsed = parseWebhookUrl(text, clientEnvironment.allowlist);
  if (!parsed.ok) throw validationFailed([{ path: '/failureWebhook', message: parsed.fault }]);
  return parsed.url;
}
