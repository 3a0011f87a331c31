import { type Kysely, sql } from 'kysely';

/**
 * Adds roles of AWS as access to buckets. A config has an access key or a role. External ids have
 * their own table: adding a column to `environments` would wait for ingests that lock it.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table external_ids (
      environment_id text collate "C" primary key references environments (id) on delete cascade,
      external_id text not null default gen_random_uuid()::text
    )`.execute(db);
  await sql`
    alter table export_configs
      alter column access_key_id drop not null,
      alter column sealed_secret drop not null,
      add column role_arn text check (role_arn is null or provider = 'aws'),
      add column external_id text,
      add check (num_nulls(role_arn, external_id) = case when access_key_id is null then 0 else 2 end),
      add check ((access_key_id is null) = (sealed_secret is null))`.execute(db);
}
