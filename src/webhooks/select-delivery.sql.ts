import type { DatabaseOrTransaction } from '../db/database.ts';
import type { WebhookJob } from '../db/job-queue.ts';
import type { Webhook } from './webhooks-repository.ts';

interface Delivery {
  readonly webhook: Webhook;
  readonly event: {
    readonly type: string;
    readonly createdAt: Date;
    readonly data: Readonly<Record<string, unknown>>;
  };
}

/**
 * Returns an event and its current webhook; null if environment, config, webhook or event were
 * deleted.
 */
export async function selectDelivery(
  db: DatabaseOrTransaction,
  { environmentId, eventId }: WebhookJob,
): Promise<Delivery | null> {
  const row = await db
    .selectFrom('webhook_events as event')
    .innerJoin('failure_webhooks as webhook', 'webhook.environment_id', 'event.environment_id')
    .innerJoin('export_configs as config', join =>
      join
        .onRef('config.environment_id', '=', 'event.environment_id')
        .onRef('config.id', '=', 'event.config_id')
        .on('config.deleted_at', 'is', null),
    )
    .select([
      'event.type',
      'event.created_at',
      'event.data',
      'webhook.url',
      'webhook.sealed_secret',
    ])
    .where('event.environment_id', '=', environmentId)
    .where('event.id', '=', eventId)
    .executeTakeFirst();
  if (row === undefined) return null;
  return {
    webhook: { environmentId, url: row.url, sealedSecret: row.sealed_secret },
    event: { type: row.type, createdAt: row.created_at, data: row.data },
  };
}
