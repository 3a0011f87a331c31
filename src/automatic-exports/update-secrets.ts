import type { EncryptionKey } from '../config.ts';
import type { Database } from '../db/database.ts';
import { isSealedUnderFirstKey, openSecret, sealSecret } from '../destinations/secrets.ts';

const pageSize = 500;

export interface Resealed {
  readonly total: number;
  /** Were sealed under another key than the first. */
  readonly moved: number;
  /** Were changed by somebody, or sealed under a key that is not given. Left as they are. */
  readonly unreadable: number;
}

/** Seals every stored secret under the first key. A secret that a caller changes meanwhile is left to that. */
export async function resealSecrets(
  db: Database,
  keys: readonly [EncryptionKey, ...EncryptionKey[]],
): Promise<Resealed> {
  let [total, moved, unreadable] = [0, 0, 0];
  for (let after = { environmentId: '', configId: '' }; ; ) {
    const rows = await db
      .selectFrom('export_configs')
      .select(['environment_id', 'id', 'sealed_secret'])
      .where(({ eb, refTuple, tuple }) =>
        eb(refTuple('environment_id', 'id'), '>', tuple(after.environmentId, after.configId)),
      )
      .orderBy('environment_id')
      .orderBy('id')
      .limit(pageSize)
      .execute();
    for (const row of rows) {
      total += 1;
      const owner = { environmentId: row.environment_id, configId: row.id };
      const resealed = reseal(keys, row.sealed_secret, owner);
      if (resealed === null) unreadable += 1;
      if (resealed === null || resealed === row.sealed_secret) continue;
      const result = await db
        .updateTable('export_configs')
        .set({ sealed_secret: resealed })
        .where('environment_id', '=', row.environment_id)
        .where('id', '=', row.id)
        .where('sealed_secret', '=', row.sealed_secret)
        .executeTakeFirst();
      moved += Number(result.numUpdatedRows);
    }
    const last = rows.at(-1);
    if (last === undefined || rows.length < pageSize) return { total, moved, unreadable };
    after = { environmentId: last.environment_id, configId: last.id };
  }
}

/** The same text when it is under the first key already; null when it does not open. */
function reseal(
  keys: readonly [EncryptionKey, ...EncryptionKey[]],
  sealed: string,
  owner: { environmentId: string; configId: string },
): string | null {
  try {
    return isSealedUnderFirstKey(keys, sealed)
      ? sealed
      : sealSecret(keys, openSecret(keys, sealed, owner), owner);
  } catch {
    return null;
  }
}
