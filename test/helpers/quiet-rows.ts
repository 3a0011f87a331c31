import type { Pool } from 'pg';
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
