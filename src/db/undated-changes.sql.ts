import { sql } from 'kysely';
import type { DatabaseOrTransaction } from './database.ts';

/**
 * Records a change of snapshots after which `Last-Modified` of a file may stay the same: a
 * deletion, or a replacement within one second. Dates up to the newest completion in the
 * environment do not prove that a file is unchanged.
 *
 * @param completedAt completion of the deleted or replaced snapshot; null if the registry still has
 *   it
 */
export async function recordUndatedChanges(
  trx: DatabaseOrTransaction,
  environmentIds: readonly string[],
  completedAt: Date | null,
): Promise<void> {
  await sql`
    insert into undated_changes as recorded (environment_id, completed_until)
    select changed.id, greatest(max(completed_at), ${completedAt}::timestamptz)
    from unnest(${environmentIds}::text[]) as changed (id)
    left join snapshots on environment_id = changed.id
    group by changed.id
    order by changed.id
    on conflict (environment_id) do update
      set completed_until = greatest(recorded.completed_until, excluded.completed_until)`.execute(
    trx,
  );
}
