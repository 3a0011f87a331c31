import type pg from 'pg';

/**
 * Creates a snapshot with that many rows by SQL, in the order of writes of docs/ingest-by-sql.md. A
 * row has about 200 bytes as CSV.
 */
export async function fillSnapshot(
  pool: pg.Pool,
  environmentId: string,
  date: string,
  rowCount: number,
): Promise<void> {
  await pool.query('select ensure_snapshot_partition($1::date)', [date]);
  await pool.query(
    `insert into snapshot_rows (environment_id, snapshot_date, company_id, company_name, feature_id, feature_name,
       first_seen, last_seen, stars_state, frequency, feedback_count)
     select $1, $2::date, 'company-' || n, md5(n::text), 'f1', md5((n * 7)::text), timestamptz '2026-01-01T00:00:00Z' + n * interval '1 ms',
       '2026-03-01T00:00:00Z', 1 + n % 4, n % 4, n
     from generate_series(1, $3::int) as n`,
    [environmentId, date, rowCount],
  );
  await pool.query(
    'insert into snapshots (environment_id, snapshot_date, row_count) values ($1, $2, $3)',
    [environmentId, date, rowCount],
  );
}
