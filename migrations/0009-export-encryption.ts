import { type Kysely, sql } from 'kysely';

/** Adds the server-side encryption of export configs. Null means the default of the bucket. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table export_configs
      add column encryption text check (encryption in ('AES256', 'aws:kms')),
      add column kms_key_id text check (kms_key_id is null or encryption = 'aws:kms')`.execute(db);
}
