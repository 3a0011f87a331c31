import { randomBytes } from 'node:crypto';
import type { Pool } from 'pg';

/**
 * Returns a name of 48 kB for `letter`. Deflate looks back 32 KiB, so gzip cannot shorten a file that
 * repeats it.
 */
export const longName = () => randomBytes(36_000).toString('base64');

/**
 * Inserts a large snapshot in the order of writes of docs/ingest-by-sql.md: rows and registry in
 * one transaction. Each row has a name of `nameBytes` times `letter`.
 */
export async function writeWideSnapshot(
  pool: Pool,
  wide: { environmentId: string; date: string; rows: number; nameBytes: number; letter?: string },
): Promise<void> {
  const { environmentId, date, rows, nameBytes, letter = 'x' } = wide;
  const client = await pool.connect();
  try {
    await client.query('select ensure_snapshot_partition($1)', [date]);
    await client.query('begin');
    await client.query(
      'delete from snapshot_rows where environment_id = $1 and snapshot_date = $2',
      [environmentId, date],
    );
    await client.query(
      `insert into snapshot_rows (environment_id, snapshot_date, company_id, company_name, feature_id, feature_name,
         first_seen, last_seen, stars_state, frequency, feedback_count)
       select $1, $2, to_char(n, 'FM00000000'), repeat($3, $4), 'f1', 'Export',
         '2026-01-01T00:00:00Z', '2026-01-01T00:00:00Z', 1, 0, 0
       from generate_series(1, $5::int) as n`,
      [environmentId, date, letter, nameBytes, rows],
    );
    await client.query(
      `insert into snapshots (environment_id, snapshot_date, row_count) values ($1, $2, $3)
       on conflict (environment_id, snapshot_date) do update
         set version = default, row_count = excluded.row_count, completed_at = now()`,
      [environmentId, date, rows],
    );
    await client.query('commit');
  } finally {
    client.release();
  }
}
