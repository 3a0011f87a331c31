import { type Kysely, sql } from 'kysely';

/**
 * Adds the rendered form of snapshots.
 *
 * - `rendered_snapshots` has one row for each rendered snapshot version. A version without a row is
 *   not rendered, so a backend that replaces a snapshot by SQL can ignore rendering.
 * - `snapshot_chunks` holds the CSV rows of a rendered version in order, without the header line. A
 *   chunk ends at the end of a record. The bytes are raw deflate data that ends with a sync flush,
 *   so chunks can be joined to one stream.
 *
 * The primary keys start with `environment_id`, so that both tables can be distributed by it.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  // `crc32` covers the plain rows. `renderer` names the versions of the code and of zlib.
  await sql`
    create table rendered_snapshots (
      environment_id text collate "C" not null references environments (id) on delete cascade,
      version uuid not null,
      snapshot_date date not null,
      plain_bytes bigint not null check (plain_bytes >= 0),
      deflated_bytes bigint not null check (deflated_bytes >= 0),
      chunk_count integer not null check (chunk_count >= 0),
      crc32 bigint not null check (crc32 between 0 and 4294967295),
      renderer text not null,
      rendered_at timestamptz(3) not null default now(),
      replaced_at timestamptz(3),
      primary key (environment_id, version)
    )`.execute(db);
  await sql`
    create index rendered_snapshots_replaced on rendered_snapshots (replaced_at)
      where replaced_at is not null`.execute(db);

  // `checksum` is the CRC-32 of version, index and deflated bytes. The foreign key is deferred,
  // because chunks are written before the row of their snapshot. That row locks the environment
  // against deletion and is therefore written last.
  await sql`
    create table snapshot_chunks (
      environment_id text collate "C" not null,
      version uuid not null,
      index integer not null check (index >= 0),
      plain_bytes integer not null check (plain_bytes > 0),
      checksum bigint not null check (checksum between 0 and 4294967295),
      deflated bytea not null,
      primary key (environment_id, version, index),
      foreign key (environment_id, version)
        references rendered_snapshots (environment_id, version) on delete cascade
        deferrable initially deferred
    )`.execute(db);
  // Deflated data cannot be compressed further, so Postgres shall not try.
  await sql`alter table snapshot_chunks alter column deflated set storage external`.execute(db);
}
