import { type AuditAction, recordChange, systemActor } from '../audit/audit-log-repository.ts';
import type { Database, DatabaseOrTransaction } from '../db/database.ts';
import {
  type EncryptionKeys,
  isSealedUnderFirstKey,
  openSecret,
  type SecretOwner,
  sealSecret,
} from './secrets.ts';

const pageSize = 500;

export interface Resealed {
  readonly total: number;
  /** Number of secrets that were encrypted with another key than the first. */
  readonly moved: number;
  /**
   * Number of secrets that were tampered with or whose key is not configured. They are left
   * unchanged.
   */
  readonly unreadable: number;
}

/**
 * Encrypts every stored secret with the first key. Skips secrets that a caller changes meanwhile.
 */
export async function resealSecrets(db: Database, keys: EncryptionKeys): Promise<Resealed> {
  const configs = await resealAll(db, keys, configSecrets);
  const webhooks = await resealAll(db, keys, webhookSecrets);
  return {
    total: configs.total + webhooks.total,
    moved: configs.moved + webhooks.moved,
    unreadable: configs.unreadable + webhooks.unreadable,
  };
}

interface StoredSecret {
  readonly owner: SecretOwner;
  readonly sealed: string;
}

/** Table that holds secrets. */
interface SecretTable {
  readonly action: AuditAction;
  /** Returns a page of secrets after `after` in the order of the primary key. */
  selectPage(db: Database, after: SecretOwner): Promise<readonly StoredSecret[]>;
  /** Replaces a secret. @returns false if it was changed meanwhile */
  replace(db: DatabaseOrTransaction, stored: StoredSecret, resealed: string): Promise<boolean>;
}

const configSecrets: SecretTable = {
  action: 'export_config.secret_resealed',
  async selectPage(db, { environmentId, configId }) {
    const rows = await db
      .selectFrom('export_configs')
      .select(['environment_id', 'id', 'sealed_secret'])
      .where('sealed_secret', 'is not', null)
      .$narrowType<{ sealed_secret: string }>()
      .where(({ eb, refTuple, tuple }) =>
        eb(refTuple('environment_id', 'id'), '>', tuple(environmentId, configId ?? '')),
      )
      .orderBy('environment_id')
      .orderBy('id')
      .limit(pageSize)
      .execute();
    return rows.map(row => ({
      owner: { environmentId: row.environment_id, configId: row.id },
      sealed: row.sealed_secret,
    }));
  },
  async replace(db, { owner, sealed }, resealed) {
    const result = await db
      .updateTable('export_configs')
      .set({ sealed_secret: resealed })
      .where('environment_id', '=', owner.environmentId)
      .where('id', '=', owner.configId ?? '')
      .where('sealed_secret', '=', sealed)
      .executeTakeFirst();
    return result.numUpdatedRows === 1n;
  },
};

const webhookSecrets: SecretTable = {
  action: 'failure_webhook.secret_resealed',
  async selectPage(db, { environmentId }) {
    const rows = await db
      .selectFrom('failure_webhooks')
      .select(['environment_id', 'sealed_secret'])
      .where('environment_id', '>', environmentId)
      .orderBy('environment_id')
      .limit(pageSize)
      .execute();
    return rows.map(row => ({
      owner: { environmentId: row.environment_id, configId: null },
      sealed: row.sealed_secret,
    }));
  },
  async replace(db, { owner, sealed }, resealed) {
    const result = await db
      .updateTable('failure_webhooks')
      .set({ sealed_secret: resealed })
      .where('environment_id', '=', owner.environmentId)
      .where('sealed_secret', '=', sealed)
      .executeTakeFirst();
    return result.numUpdatedRows === 1n;
  },
};

async function resealAll(
  db: Database,
  keys: EncryptionKeys,
  table: SecretTable,
): Promise<Resealed> {
  let [total, moved, unreadable] = [0, 0, 0];
  for (let after: SecretOwner = { environmentId: '', configId: '' }; ; ) {
    const page = await table.selectPage(db, after);
    for (const stored of page) {
      total += 1;
      const resealed = reseal(keys, stored);
      if (resealed === null) unreadable += 1;
      if (resealed === null || resealed === stored.sealed) continue;
      if (await replaceSecret(db, table, stored, resealed, keys[0].id)) moved += 1;
    }
    const last = page.at(-1);
    if (last === undefined || page.length < pageSize) return { total, moved, unreadable };
    after = last.owner;
  }
}

/** Replaces a secret and records it in the audit log. @returns false if it was changed meanwhile */
async function replaceSecret(
  db: Database,
  table: SecretTable,
  stored: StoredSecret,
  resealed: string,
  keyId: string,
): Promise<boolean> {
  return await db.transaction().execute(async trx => {
    if (!(await table.replace(trx, stored, resealed))) return false;
    const { environmentId, configId } = stored.owner;
    await recordChange(trx, systemActor('secrets:rotate'), {
      environmentId,
      action: table.action,
      targetId: configId ?? environmentId,
      details: { encryptionKeyId: keyId },
    });
    return true;
  });
}

/** Returns the secret encrypted with the first key; null if it cannot be decrypted. */
function reseal(keys: EncryptionKeys, { owner, sealed }: StoredSecret): string | null {
  try {
    return isSealedUnderFirstKey(keys, sealed)
      ? sealed
      : sealSecret(keys, openSecret(keys, sealed, owner), owner);
  } catch {
    return null;
  }
}
