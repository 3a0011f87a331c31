import { type Kysely, sql } from 'kysely';

/**
 * Adds backfills, redeliveries, the catch-up of missed slots and the cancellation of single runs.
 * No statement rewrites `export_runs`: the new check is a superset of the old one, and the columns
 * are null or constant.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table export_configs
      add column catch_up text not null default 'newest' check (catch_up in ('newest', 'all')),
      add column redeliver boolean not null default false,
      add column last_delivered_date date`.execute(db);

  await sql`
    alter table export_runs
      drop constraint export_runs_trigger_check,
      add constraint export_runs_trigger_check
        check (trigger in ('schedule', 'manual', 'backfill', 'redelivery')) not valid,
      add column backfill_id text collate "C",
      add column snapshot_version uuid,
      add column is_completing boolean not null default false,
      add column error_hint text`.execute(db);
  await sql`
    create index export_runs_of_backfill on export_runs (environment_id, backfill_id)
      where backfill_id is not null`.execute(db);

  // `pending_dates` are sorted. The counts of a backfill are those of its runs.
  await sql`
    create table backfills (
      environment_id text collate "C" not null,
      config_id text collate "C" not null,
      id text collate "C" not null,
      from_date date not null,
      to_date date not null,
      total integer not null,
      pending_dates date[] not null,
      created_at timestamptz(3) not null,
      cancelled_at timestamptz(3),
      primary key (environment_id, id),
      foreign key (environment_id, config_id) references export_configs (environment_id, id) on delete cascade
    )`.execute(db);
  // A row asks to look for delivered snapshots of the config that were replaced.
  await sql`
    create table redelivery_checks (
      environment_id text collate "C" not null,
      config_id text collate "C" not null,
      requested_at timestamptz(3) not null default now(),
      primary key (environment_id, config_id),
      foreign key (environment_id, config_id) references export_configs (environment_id, id) on delete cascade
    )`.execute(db);
  const indexes = [
    'create index backfills_newest on backfills (environment_id, config_id, created_at desc, id desc)',
    `create index backfills_pending on backfills (environment_id, config_id)
       where cancelled_at is null and pending_dates <> '{}'`,
  ];
  for (const index of indexes) await sql.raw(index).execute(db);
}
