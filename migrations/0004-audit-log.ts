import { type Kysely, sql } from 'kysely';

/**
 * Creates the audit log. It has no foreign keys, because lines outlive the objects that they name.
 * The id comes from a sequence, which keeps the order of lines with equal times.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table audit_log (
      id bigint generated always as identity primary key,
      at timestamptz(3) not null default now(),
      actor_kind text not null check (actor_kind in ('operator', 'api-key', 'user', 'system')),
      actor_id text check ((actor_kind = 'operator') = (actor_id is null)),
      environment_id text collate "C",
      action text not null,
      target_id text collate "C",
      details jsonb not null,
      request_id text
    )`.execute(db);
  const indexes = [
    'create index audit_log_newest on audit_log (at desc, id desc)',
    'create index audit_log_of_environment on audit_log (environment_id, at desc, id desc)',
    'create index audit_log_of_action on audit_log (action, at desc, id desc)',
  ];
  for (const index of indexes) await sql.raw(index).execute(db);
}
