import { type Kysely, sql } from 'kysely';

/**
 * Adds the format of the files of export configs. The previous version neither reads nor writes the
 * column: its configs are CSV. Parquet compresses inside the file, so it has no other compression.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table export_configs
      add column format text not null default 'csv' check (format in ('csv', 'parquet')),
      add check (format = 'csv' or compression = 'none')`.execute(db);
}
