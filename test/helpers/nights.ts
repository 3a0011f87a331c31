import type { Pool } from 'pg';
import type { TidiedUp } from '../../src/retention/tidy-up.ts';
import { eventually } from './raw-http.ts';

/** Waits until no transaction is at the rows of any day: a download's ends a moment after its last byte. */
export async function untilRowsAreQuiet(pool: Pool): Promise<void> {
  await eventually(async () => {
    const { rows } = await pool.query(
      `select from pg_locks
       where relation = 'snapshot_rows'::regclass and database = (select oid from pg_database where datname = current_database())
         and pid <> pg_backend_pid()`,
    );
    return rows.length === 0;
  }, 'rows that nobody is at');
}

/**
 * Nights until so many partitions are dropped, and what they did in all: a view that autovacuum has open for a moment puts
 * one off until the next night.
 */
export async function nightsUntilDropped(
  tidy: () => Promise<TidiedUp>,
  count: number,
): Promise<{ snapshots: number; days: number; dropped: number }> {
  const done = { snapshots: 0, days: 0, dropped: 0 };
  await eventually(async () => {
    const { snapshots, days, partitions } = await tidy();
    done.snapshots += snapshots;
    done.days += days;
    done.dropped += partitions.dropped;
    return done.dropped >= count;
  }, `${count} dropped partitions`);
  return done;
}
