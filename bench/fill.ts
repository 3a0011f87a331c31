import type { Pool } from 'pg';

/** Number of features, and therefore of rows, of each company in a snapshot. */
export const featuresPerCompany = 50;

/**
 * Creates an environment and its snapshot of one day by SQL, in the order of writes that
 * docs/ingest-by-sql.md documents. Creates companies × 50 features with names, dates and segments
 * like those of the demo. A row has about 200 bytes as CSV.
 */
export async function fillSnapshot(
  pool: Pool,
  { environmentId, date, rows }: { environmentId: string; date: string; rows: number },
): Promise<void> {
  await pool.query(
    `insert into environments (id, name, plan) values ($1, $1, 'enterprise') on conflict do nothing`,
    [environmentId],
  );
  await pool.query('select ensure_snapshot_partition($1)', [date]);
  const client = await pool.connect();
  try {
    await client.query('begin');
    await client.query('select setseed(0.5)');
    const { rowCount } = await client.query(fill, [environmentId, date, rows]);
    await client.query(
      `insert into snapshots (environment_id, snapshot_date, row_count) values ($1, $2, $3)
       on conflict (environment_id, snapshot_date) do update
         set version = default, row_count = excluded.row_count, completed_at = now()`,
      [environmentId, date, rowCount],
    );
    await client.query('commit');
  } finally {
    client.release();
  }
  await pool.query('vacuum analyze snapshot_rows');
}

/** Parameters: $1 environment, $2 date, $3 rows. */
const fill = `
  insert into snapshot_rows (
    environment_id, snapshot_date, company_id, company_name, feature_id, feature_name,
    first_seen, last_seen, first_used, last_used, stars_state, frequency, satisfaction, feedback_count,
    segment_names, segment_ids
  )
  select $1, $2::date, company.id, company.name, feature.id, feature.name,
    company.arrived_at, company.arrived_at + life.seen * interval '1 ms',
    case when life.stars > 1 then company.arrived_at + life.seen * 0.3 * interval '1 ms' end,
    case when life.stars > 1 then company.arrived_at + life.seen * 0.9 * interval '1 ms' end,
    life.stars, case when life.stars in (1, 4) then 0 else 1 + life.draw % 3 end,
    case when life.stars > 1 and life.draw % 5 < 2 then 1 + life.draw % 5 end,
    case when life.draw % 10 = 0 then life.draw % 7 else 0 end,
    company.segment_names, company.segment_ids
  from (
    select n,
      'cmp_' || lpad(to_hex(n * 2654435761 % 4294967296), 8, '0') as id,
      case when random() < 0.02 then null
        else (array['Northwind','Blue Harbor','Acme','Cobalt','Fjord & Sons','Lumen','Quartz','Müller'])[1 + floor(random() * 8)::int]
          || ' ' || (array['Logistics','Robotics','Foods','Media','Analytics','Textiles','Energy'])[1 + floor(random() * 7)::int]
          || case when random() < 0.2 then ', Inc.' else ' ' || n end end as name,
      timestamptz '2024-01-01T00:00:00Z' + floor(random() * 40000000000) * interval '1 ms' as arrived_at,
      (array['All', 'All,Paying', 'All,Trial,Paying', 'All,EU,Paying'])[pick] as segment_names,
      (array['s1', 's1,s2', 's1,s3,s2', 's1,s4,s2'])[pick] as segment_ids
    from (
      select n, 1 + floor(random() * 4)::int as pick
      from generate_series(1, ceil($3::bigint / ${featuresPerCompany}.0)::bigint) as n
      offset 0
    ) as number
    order by id
    offset 0
  ) as company
  cross join (
    select 'ftr_' || lpad(f::text, 3, '0') as id,
      (array['Export','Dashboards','Alerts','Single sign-on','Audit log'])[1 + f % 5] || ' ' || f as name
    from generate_series(1, ${featuresPerCompany}) as f
    offset 0
  ) as feature
  cross join lateral (
    select floor(random() * 25000000000) as seen, 1 + floor(random() * 4)::int as stars, floor(random() * 1000)::int as draw
    where feature.id is not null
  ) as life`;
