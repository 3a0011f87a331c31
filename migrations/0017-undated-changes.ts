import { type Kysely, sql } from 'kysely';

/**
 * Records changes of snapshots that no later time of completion shows: deletions, and replacements
 * within one second. `Last-Modified` of a file stays the same then, so `If-Modified-Since` must not
 * be answered with 304.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table undated_changes (
      environment_id text collate "C" primary key references environments (id) on delete cascade,
      completed_until timestamptz(3) not null
    )`.execute(db);
}
