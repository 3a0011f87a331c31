import { type Kysely, sql } from 'kysely';

/**
 * Adds the selection of events to failure webhooks, and the event of a success. The previous version
 * inserts webhooks without a selection, and they get the default. The tables are locked in the order
 * in which the service uses them.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table webhook_events
      drop constraint webhook_events_type_check,
      add constraint webhook_events_type_check check (
        type in ('export.succeeded', 'export.failed', 'export.recovered', 'export.turned_off')
      )`.execute(db);
  await sql`
    alter table failure_webhooks
      add column events text[] not null
        default array['export.failed', 'export.recovered', 'export.turned_off']
        check (events <@ array['export.succeeded', 'export.failed', 'export.recovered', 'export.turned_off'])`.execute(
    db,
  );
}
