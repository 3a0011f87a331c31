import { type Kysely, sql } from 'kysely';

/**
 * Creates export configs and runs. Text ids compare in byte order. Every key starts with
 * `environment_id`.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table export_configs (
      environment_id text collate "C" not null references environments (id) on delete cascade,
      id text collate "C" not null,
      name text not null,
      enabled boolean not null,
      schedule text not null check (schedule in ('daily', 'weekly')),
      provider text not null check (provider in ('aws', 'gcp', 'custom')),
      bucket text not null,
      region text not null,
      key text not null,
      endpoint text check ((provider = 'custom') = (endpoint is not null)),
      access_key_id text not null,
      sealed_secret text not null,
      compression text not null check (compression in ('none', 'gzip')),
      manifest boolean not null,
      active_since timestamptz(3) not null,
      deleted_at timestamptz(3),
      created_at timestamptz(3) not null,
      updated_at timestamptz(3) not null,
      primary key (environment_id, id)
    )`.execute(db);
  await sql`create index export_configs_newest on export_configs (environment_id, created_at desc, id desc)`.execute(
    db,
  );
  await sql`create index export_configs_deleted on export_configs (environment_id, id) where deleted_at is not null`.execute(
    db,
  );

  await sql`
    create table export_runs (
      environment_id text collate "C" not null,
      config_id text collate "C" not null,
      id text collate "C" not null,
      trigger text not null check (trigger in ('schedule', 'manual')),
      slot timestamptz(3) check ((trigger = 'schedule') = (slot is not null)),
      snapshot_date date not null,
      state text not null check (state in ('queued', 'running', 'successful', 'failed')),
      attempts integer not null default 0,
      created_at timestamptz(3) not null,
      started_at timestamptz(3),
      finished_at timestamptz(3) check ((state in ('successful', 'failed')) = (finished_at is not null)),
      row_count bigint,
      bytes bigint,
      sha256 text,
      object_key text,
      error_code text,
      error_message text check ((error_code is null) = (error_message is null)),
      job_id uuid,
      upload_id text,
      primary key (environment_id, id),
      foreign key (environment_id, config_id) references export_configs (environment_id, id) on delete cascade
    )`.execute(db);
  const indexes = [
    'create unique index export_runs_slot on export_runs (environment_id, config_id, slot)',
    `create unique index export_runs_unfinished on export_runs (environment_id, config_id)
       where state in ('queued', 'running')`,
    'create index export_runs_newest on export_runs (environment_id, config_id, created_at desc, id desc)',
    `create index export_runs_last_finished on export_runs (environment_id, config_id, finished_at desc)
       where finished_at is not null`,
    `create index export_runs_last_successful on export_runs (environment_id, config_id, finished_at desc)
       where state = 'successful'`,
    `create index export_runs_without_job on export_runs (environment_id, snapshot_date)
       where state = 'queued' and job_id is null`,
    'create index export_runs_with_job on export_runs (environment_id, config_id) where job_id is not null',
  ];
  for (const index of indexes) await sql.raw(index).execute(db);
}
