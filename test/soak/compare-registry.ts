import { setTimeout as delay } from 'node:timers/promises';
import type { PoolClient } from 'pg';
import type { World } from './world.ts';

interface Registered {
  readonly environmentId: string;
  readonly date: string;
  readonly version: string;
  readonly rowCount: number;
}

const newest = `
  select environment_id as "environmentId", snapshot_date::text as date, version, row_count::int as "rowCount"
  from snapshots order by snapshot_date desc, environment_id limit 12`;

const countRows = `
  select count(*)::int as rows from snapshot_rows where environment_id = $1 and snapshot_date = $2::date`;

/**
 * Compares the registry with the rows in one read view, directly in the database. Waits `afterMs`
 * in between.
 * @throws errors of the database
 */
export async function compareRegistry(world: World, afterMs: number): Promise<void> {
  const client = await world.admin.connect();
  try {
    await compareWith(client, world, afterMs);
    client.release();
  } catch (error) {
    client.release(true);
    throw error;
  }
}

async function compareWith(client: PoolClient, world: World, afterMs: number): Promise<void> {
  await client.query('begin isolation level repeatable read read only');
  const { rows: registered } = await client.query<Registered>(newest);
  await delay(afterMs);
  for (const { environmentId, date, version, rowCount } of registered) {
    const { rows } = await client.query<{ rows: number }>(countRows, [environmentId, date]);
    const found = rows[0]?.rows;
    if (found !== rowCount) {
      world.faults.push(
        `read view of ${environmentId} ${date} (${version}): expected ${rowCount} rows, read ${found}`,
      );
    }
  }
  await client.query('commit');
  world.counts['compared read views'] += 1;
}
