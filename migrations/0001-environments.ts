import { type Kysely, sql } from 'kysely';

/**
 * Creates environments and API keys. Instants have milliseconds, as in the API. Text ids compare in
 * byte order, like the sort order of exported files.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table environments (
      id text collate "C" primary key check (id ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$'),
      name text not null,
      plan text not null check (plan in ('free', 'pro', 'enterprise')),
      created_at timestamptz(3) not null default now(),
      updated_at timestamptz(3) not null default now()
    )`.execute(db);

  await sql`
    create table api_keys (
      environment_id text collate "C" not null references environments (id) on delete cascade,
      id text collate "C" not null,
      name text not null,
      scopes text[] not null,
      secret_hash bytea not null,
      expires_at timestamptz(3),
      created_at timestamptz(3) not null default now(),
      primary key (environment_id, id)
    )`.execute(db);
  // A bearer token names only the key, so the key is looked up without its environment.
  await sql`create index api_keys_id on api_keys (id)`.execute(db);
}
