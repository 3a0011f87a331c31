import type { Pool } from 'pg';

/** Inserts rows that compress badly: about 700 bytes each, of which gzip leaves 400. */
export async function writeDenseSnapshot(
  pool: Pool,
  snapshot: { environmentId: string; date: string; rows: number; salt?: string },
): Promise<void> {
  const { environmentId, date, rows, salt = '' } = snapshot;
  await pool.query('select ensure_snapshot_partition($1)', [date]);
  await pool.query(
    `with deleted as (delete from snapshot_rows where environment_id = $1 and snapshot_date = $2)
     insert into snapshots (environment_id, snapshot_date, row_count) values ($1, $2, $3)
     on conflict (environment_id, snapshot_date) do update
       set version = default, row_count = excluded.row_count, completed_at = now()`,
    [environmentId, date, rows],
  );
  await pool.query(
    `insert into snapshot_rows (environment_id, snapshot_date, company_id, company_name, feature_id, feature_name,
       first_seen, last_seen, stars_state, frequency, feedback_count)
     select $1, $2, to_char(n, 'FM00000000'),
       (select string_agg(encode(sha512(convert_to(concat($4::text, n, '-', i), 'UTF8')), 'hex'), '')
        from generate_series(1, 5) as i),
       'f1', 'Export', '2026-01-01T00:00:00Z', '2026-01-01T00:00:00Z', 1, 0, 0
     from generate_series(1, $3::int) as n`,
    [environmentId, date, rows, salt],
  );
}
