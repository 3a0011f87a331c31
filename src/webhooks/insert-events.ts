import { sql, type Transaction } from 'kysely';
import { fromKysely, type PgBoss } from 'pg-boss';
import type { DatabaseOrTransaction } from '../db/database.ts';
import { webhookQueue } from '../db/job-queue.ts';
import type { Tables } from '../db/tables.ts';

export type EventType = 'export.failed' | 'export.recovered' | 'export.turned_off';

/** Data of an event for the receiver. Never a secret. */
export interface EventData {
  readonly environmentId: string;
  readonly configId: string;
  readonly configName: string;
  readonly runId: string;
  /** Slot of a scheduled run; null for a manual run. */
  readonly slot: string | null;
  readonly snapshotDate: string;
  /** Error of the run; null if it succeeded. */
  readonly error: { readonly code: string; readonly message: string } | null;
  /** Consecutive failed runs, including this one. */
  readonly consecutiveFailures: number;
}

export interface NewEvent {
  readonly type: EventType;
  readonly data: EventData;
}

interface InsertedEvent {
  readonly environmentId: string;
  readonly configId: string;
  readonly eventId: string;
  readonly type: EventType;
}

/**
 * Inserts events and their jobs in one transaction. Skips environments without a webhook, and
 * failures of a config that already has a failure event that day. The unique key decides, also
 * between concurrent transactions.
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
  const { rows } = await sql<InsertedEvent>`
    insert into webhook_events (environment_id, config_id, id, type, day, data, created_at)
    select event.environment_id, event.config_id, gen_random_uuid()::text, event.type,
      (${now}::timestamptz at time zone 'UTC')::date, event.data, ${now}
    from json_to_recordset(${JSON.stringify(given)}::json) as event (environment_id text, config_id text, type text, data json)
    join failure_webhooks as webhook on webhook.environment_id = event.environment_id
    on conflict do nothing
    returning environment_id as "environmentId", config_id as "configId", id as "eventId", type`.execute(
    trx,
  );
  const jobs = rows.map(({ environmentId, eventId }) => ({
    data: { environmentId, eventId },
    group: { id: environmentId },
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
