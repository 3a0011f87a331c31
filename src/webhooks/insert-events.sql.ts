import { sql, type Transaction } from 'kysely';
import { fromKysely, type PgBoss } from 'pg-boss';
import type { DatabaseOrTransaction } from '../db/database.ts';
import { webhookQueue } from '../db/job-queue.ts';
import type { Tables } from '../db/tables.ts';
import type { EventType, NewEvent } from './events.ts';

interface InsertedEvent {
  readonly environmentId: string;
  readonly configId: string;
  readonly eventId: string;
  readonly type: EventType;
}

const recentMs = 60 * 60_000;
/** Maximum number of recent events that are counted. */
const maxRecent = 1_000;

/**
 * Inserts events and their jobs in one transaction. Skips environments without a webhook, and
 * failures of a config that already has a failure event that day. The unique key decides, also
 * between concurrent transactions.
 *
 * The more events an environment had within the last hour, the later its next one is sent. Slow
 * receivers of a few environments with many events therefore do not delay the events of others.
 *
 * An event that the webhook does not select gets no job. Failures are inserted even then, so that a
 * webhook that selects only `export.recovered` receives recoveries.
 *
 * @returns the inserted events
 */
export async function insertEvents(
  trx: Transaction<Tables>,
  boss: PgBoss,
  events: readonly NewEvent[],
  now: Date,
): Promise<readonly InsertedEvent[]> {
  if (events.length === 0) return [];
  const given = events.map(({ type, data }) => ({
    environment_id: data.environmentId,
    config_id: data.configId,
    type,
    data,
  }));
  const { rows } = await sql<
    InsertedEvent & { readonly isSelected: boolean; readonly recent: number }
  >`
    with event as (
      select given.*, given.type = any (webhook.events) as is_selected
      from json_to_recordset(${JSON.stringify(given)}::json)
        as given (environment_id text, config_id text, type text, data json)
      join failure_webhooks as webhook on webhook.environment_id = given.environment_id
    ), inserted as (
      insert into webhook_events (environment_id, config_id, id, type, day, data, created_at)
      select environment_id, config_id, gen_random_uuid()::text, type,
        (${now}::timestamptz at time zone 'UTC')::date, data, ${now}
      from event
      where is_selected or type = 'export.failed'
      on conflict do nothing
      returning environment_id, config_id, id, type
    )
    select environment_id as "environmentId", config_id as "configId", inserted.id as "eventId",
      type, event.is_selected as "isSelected",
      (
        select count(*)::int from (
          select from webhook_events as earlier
          where earlier.environment_id = inserted.environment_id
            and earlier.created_at > ${new Date(now.getTime() - recentMs)}
          limit ${maxRecent}
        ) as recent
      ) as recent
    from inserted join event using (environment_id, config_id, type)`.execute(trx);
  const jobs = rows
    .filter(row => row.isSelected)
    .map(({ environmentId, eventId, recent }) => ({
      data: { environmentId, eventId },
      group: { id: environmentId },
      priority: -recent,
    }));
  if (jobs.length > 0) await boss.insert(webhookQueue, jobs, { db: fromKysely(trx) });
  return rows;
}

const keptDays = 7;

/** Deletes old events. They are kept longer than any retry, and longer than clocks are set back. */
export async function deleteOldEvents(db: DatabaseOrTransaction, now: Date): Promise<void> {
  await db
    .deleteFrom('webhook_events')
    .where('created_at', '<', new Date(now.getTime() - keptDays * 24 * 60 * 60 * 1000))
    .execute();
}
