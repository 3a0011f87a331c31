import { type Kysely, sql } from 'kysely';

/**
 * Prepares the tables for retention (docs/retention.md). A needed partition may have been removed
 * or be half removed. Frequently updated tables get storage parameters that keep them small.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`create index snapshots_of_day on snapshots (snapshot_date, environment_id)`.execute(db);

  // Replaces the function of 0002. A partition that is being detached no longer counts as present.
  // An interrupted detachment is completed, which waits briefly for older exports. A detached table
  // is attached again.
  await sql`
    create or replace function ensure_snapshot_partition(day date) returns void
    language plpgsql as $function$
    declare
      partition_name text := 'snapshot_rows_' || to_char(day, 'YYYYMMDD');
      lock_key bigint := hashtextextended('warehouse-export partition ' || day, 0);
      parent oid := 'snapshot_rows'::regclass;
      patience text := current_setting('lock_timeout');
      is_pending boolean;
    begin
      if exists (
        select from pg_class join pg_inherits on inhrelid = pg_class.oid
        where relname = partition_name and inhparent = parent and not inhdetachpending
      ) then
        return;
      end if;
      perform pg_advisory_xact_lock(lock_key);
      select inhdetachpending into is_pending
      from pg_class join pg_inherits on inhrelid = pg_class.oid
      where relname = partition_name and inhparent = parent;
      if not is_pending then
        return;
      end if;
      if is_pending then
        perform set_config('lock_timeout', '500ms', true);
        execute format('alter table snapshot_rows detach partition %I finalize', partition_name);
        perform set_config('lock_timeout', patience, true);
      end if;
      if not exists (
        select from pg_class
        where relname = partition_name
          and relnamespace = (select relnamespace from pg_class where oid = parent)
      ) then
        execute format(
          'create table %I (like snapshot_rows including all)
             with (autovacuum_vacuum_scale_factor = 0.02, vacuum_truncate = false)',
          partition_name);
      end if;
      execute format(
        'alter table snapshot_rows attach partition %I for values from (%L) to (%L)',
        partition_name, day, day + 1);
    end
    $function$`.execute(db);

  // An ingest replaces one row and a night adds few rows relative to the table. By default
  // autovacuum would start only when a fifth of the table is dead.
  await sql`alter table snapshots set (autovacuum_vacuum_scale_factor = 0.02)`.execute(db);
  await sql`alter table export_runs set (autovacuum_vacuum_scale_factor = 0.02)`.execute(db);
}
