import { sql } from 'kysely';
import type { Database } from './database.ts';

/**
 * Returns the earlier of `now` and the database's time. A process whose clock is fast then does not
 * act too early.
 */
export async function earlierOf(db: Database, now: Date): Promise<Date> {
  const { rows } = await sql<{
    earlier: Date;
  }>`select least(now(), ${now}::timestamptz) as earlier`.execute(db);
  return rows[0]?.earlier ?? now;
}
