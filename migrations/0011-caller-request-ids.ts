import { type Kysely, sql } from 'kysely';

/**
 * The request id in the audit log becomes the service's own. The id that the caller sent stands
 * beside it: callers can repeat or invent theirs. The version before leaves the column empty.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table audit_log add column caller_request_id text`.execute(db);
}
