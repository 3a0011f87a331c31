import { type Kysely, sql } from 'kysely';

/**
 * Creates the registry of complete snapshots and the table of their rows, partitioned by day.
 * Columns: docs/file-format.md.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table snapshots (
      environment_id text collate "C" not null references environments (id) on delete cascade,
      snapshot_date date not null,
      version uuid not null default gen_random_uuid(),
      row_count bigint not null check (row_count >= 0),
      completed_at timestamptz(3) not null default now(),
      primary key (environment_id, snapshot_date)
    )`.execute(db);

  // No foreign key: attaching a partition would lock the referenced table against writers.
  await sql`
    create table snapshot_rows (
      environment_id text collate "C" not null,
      snapshot_date date not null,
      company_id text collate "C" not null check (company_id <> ''),
      company_name text,
      feature_id text collate "C" not null check (feature_id <> ''),
      feature_name text not null,
      first_seen timestamptz(3) not null,
      last_seen timestamptz(3) not null,
      first_used timestamptz(3),
      last_used timestamptz(3),
      stars_state smallint not null check (stars_state between 1 and 4),
      frequency smallint not null check (frequency between 0 and 3),
      satisfaction smallint check (satisfaction between 1 and 5),
      feedback_count bigint not null check (feedback_count >= 0),
      segment_names text not null default '',
      segment_ids text not null default '',
      primary key (environment_id, snapshot_date, company_id, feature_id)
    ) partition by range (snapshot_date)`.execute(db);

  // `LIKE` and `ATTACH PARTITION` take locks that do not conflict with running exports. `PARTITION
  // OF` would lock the parent against every reader. The advisory lock serializes two ingests of the
  // same new day. The second check reads the catalog: `to_regclass` may answer from
  // a cache that a wait for an advisory lock does not refresh.
  await sql`
    create function ensure_snapshot_partition(day date) returns void
    language plpgsql as $function$
    declare
      partition_name text := 'snapshot_rows_' || to_char(day, 'YYYYMMDD');
      lock_key bigint := hashtextextended('warehouse-export partition ' || day, 0);
    begin
      if exists (
        select from pg_class join pg_inherits on inhrelid = pg_class.oid
        where relname = partition_name and inhparent = 'snapshot_rows'::regclass
      ) then
        return;
      end if;
      perform pg_advisory_xact_lock(lock_key);
      if exists (
        select from pg_class join pg_inherits on inhrelid = pg_class.oid
        where relname = partition_name and inhparent = 'snapshot_rows'::regclass
      ) then
        return;
      end if;
      execute format('create table %I (like snapshot_rows including all)', partition_name);
      execute format(
        'alter table snapshot_rows attach partition %I for values from (%L) to (%L)',
        partition_name, day, day + 1);
    end
    $function$`.execute(db);
}
