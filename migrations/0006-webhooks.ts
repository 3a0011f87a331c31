import { type Kysely, sql } from 'kysely';

/**
 * Creates failure webhooks and their events, and counts consecutive failures of a config. Webhooks
 * have their own table: adding a column to `environments` would wait for ingests that lock it.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table failure_webhooks (
      environment_id text collate "C" primary key references environments (id) on delete cascade,
      url text not null,
      sealed_secret text not null
    )`.execute(db);

  await sql`
    alter table export_configs
      add column failures_in_a_row integer not null default 0,
      add column faulty_slots_in_a_row integer not null default 0,
      add column has_pushed_failure boolean not null default false,
      add column turned_off_at timestamptz(3),
      add column turned_off_message text`.execute(db);

  // `json` keeps the order of members, so that every attempt sends the same bytes.
  await sql`
    create table webhook_events (
      environment_id text collate "C" not null,
      config_id text collate "C" not null,
      id text collate "C" not null,
      type text not null check (type in ('export.failed', 'export.recovered', 'export.turned_off')),
      day date not null,
      data json not null,
      created_at timestamptz(3) not null,
      primary key (environment_id, id),
      foreign key (environment_id, config_id) references export_configs (environment_id, id) on delete cascade
    )`.execute(db);
  const indexes = [
    `create unique index webhook_events_failed_once on webhook_events (environment_id, config_id, day)
       where type = 'export.failed'`,
    'create index webhook_events_config on webhook_events (environment_id, config_id)',
    'create index webhook_events_age on webhook_events (created_at)',
  ];
  for (const index of indexes) await sql.raw(index).execute(db);
}
