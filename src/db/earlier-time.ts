import { sql } from 'kysely';
import type { Database } from './database.ts';

/** The database's time or `now`, whichever is earlier: for what a clock that is ahead must not do. */
export async function earlierOf(db: Database, now: Date): Promise<Date> {
  const { rows } = await sql<{
    earlier: Date;
  }>`select least(now(), ${now}::timestamptz) as earlier`.execute(db);
  return rows[0]?.earlier ?? now;
}
