import type { Pool } from 'pg';

/**
 * Inserts stored configs with the ids `bench-0`, `bench-1` and so on. Their secrets cannot be
 * decrypted.
 */
export async function insertConfigs(
  pool: Pool,
  environmentId: string,
  count: number,
): Promise<void> {
  await pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
       access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at)
     select $1, 'bench-' || n, 'bench', true, 'daily', 'aws', 'bench', 'eu-west-1', '', null,
       'AKIABENCH', 'sealed', 'none', false, '2020-01-01Z', '2020-01-01Z', '2020-01-01Z'
     from generate_series(0, $2::int - 1) as n`,
    [environmentId, count],
  );
}
