import { type Kysely, sql } from 'kysely';

/**
 * Adds the request id that the caller sent. `request_id` holds the id of the service, because
 * callers can repeat or invent theirs. The previous version leaves the new column empty.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table audit_log add column caller_request_id text`.execute(db);
}
