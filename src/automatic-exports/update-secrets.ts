import { recordChange, systemActor } from '../audit/audit-log.ts';
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
      if (await replaceSecret(db, owner, row.sealed_secret, resealed, keys[0].id)) moved += 1;
    }
    const last = rows.at(-1);
    if (last === undefined || rows.length < pageSize) return { total, moved, unreadable };
    after = { environmentId: last.environment_id, configId: last.id };
  }
}

/** @returns false when somebody changed it meanwhile */
async function replaceSecret(
  db: Database,
  { environmentId, configId }: { environmentId: string; configId: string },
  sealed: string,
  resealed: string,
  keyId: string,
): Promise<boolean> {
  return await db.transaction().execute(async trx => {
    const result = await trx
      .updateTable('export_configs')
      .set({ sealed_secret: resealed })
      .where('environment_id', '=', environmentId)
      .where('id', '=', configId)
      .where('sealed_secret', '=', sealed)
      .executeTakeFirst();
    if (result.numUpdatedRows === 0n) return false;
    const change = { environmentId, targetId: configId, details: { encryptionKeyId: keyId } } as const;
    await recordChange(trx, systemActor('secrets:rotate'), {
      action: 'export_config.secret_resealed',
      ...change,
    });
    return true;
  });
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
