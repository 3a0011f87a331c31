import { randomUUID } from 'node:crypto';
import { type Actor, recordChange } from '../audit/audit-log.ts';
import type { EncryptionKey } from '../config/config.ts';
import type { Database, DatabaseOrTransaction } from '../db/database.ts';
import { openSecret, sealSecret } from '../encryption/secrets.ts';
import { lockEnvironment, requireRoom } from '../environments/environments-repository.ts';
import { AppError } from '../shared/errors.ts';
import { type CheckDependencies, checkConfig, requireValid } from './check-config.ts';
import { type ConfigWithHistory, getConfig } from './list-configs.ts';
import {
  type ConfigPatch,
  type NewConfigBody,
  readConfigPatch,
  readNewConfig,
} from './read-config-body.ts';
import { refuseSameObject } from './refuse-same-object.ts';
import {
  type ConfigKey,
  countConfigs,
  type ExportConfig,
  hideConfig,
  insertConfig,
  maxConfigs,
  purgeConfigs,
  replaceConfig,
} from './repository.ts';

/** Creates, changes and deletes export configs. Buckets are checked before transactions begin. */

export interface ConfigDependencies extends CheckDependencies {
  readonly db: Database;
  readonly encryptionKeys: readonly [EncryptionKey, ...EncryptionKey[]];
  readonly now: () => Date;
  /** Cancels the unfinished run of a config, in the transaction that turns it off or deletes it. */
  readonly cancelRuns: (trx: DatabaseOrTransaction, config: ConfigKey, now: Date) => Promise<void>;
}

/**
 * Stores a new config once its bucket has passed the checks.
 *
 * @throws AppError `validation_failed`, `rate_limited`, `storage_validation_failed`; `conflict` if
 * the environment has too many configs or another one that writes the same object
 */
export async function createConfig(
  dependencies: ConfigDependencies,
  actor: Actor,
  environmentId: string,
  body: NewConfigBody,
): Promise<ConfigWithHistory> {
  const { db, encryptionKeys, now } = dependencies;
  const { settings, credentials } = readNewConfig(body);
  const requireRoomForOne = async (executor: DatabaseOrTransaction) => {
    const count = await countConfigs(executor, environmentId);
    requireRoom(count, maxConfigs, 'export configs', 'Delete one first.');
  };
  await requireRoomForOne(db);
  await refuseSameObject(db, environmentId, null, settings);
  requireValid(await checkConfig(dependencies, environmentId, settings, credentials, now()));
  const owner = { environmentId, configId: randomUUID() };
  const createdAt = now();
  const config: ExportConfig = {
    ...settings,
    environmentId,
    id: owner.configId,
    accessKeyId: credentials.accessKeyId,
    sealedSecret: sealSecret(encryptionKeys, credentials.secretAccessKey, owner),
    turnedOff: null,
    activeSince: createdAt,
    createdAt,
    updatedAt: createdAt,
  };
  await db.transaction().execute(async trx => {
    await lockEnvironment(trx, environmentId);
    await requireRoomForOne(trx);
    // Another config may have been stored while the bucket was checked.
    await refuseSameObject(trx, environmentId, config.id, config);
    await insertConfig(trx, config);
    const { enabled, schedule } = config;
    await recordChange(trx, actor, {
      environmentId,
      action: 'export_config.created',
      targetId: config.id,
      details: { enabled, schedule, destination: auditedDestination(config) },
    });
  });
  return {
    config,
    history: { current: null, last: null, lastSuccessfulAt: null, lastDeliveredDate: null },
  };
}

/** Fields that decide which objects a config writes. */
const decidesObject: readonly string[] = [
  'provider',
  'endpoint',
  'bucket',
  'region',
  'key',
  'format',
  'compression',
];

/**
 * Changes a config, or does nothing if the patch changes nothing. Turning it off cancels its runs. After it is turned on or its schedule changes,
 * the first run is at the next slot.
 * @throws AppError `not_found`, `validation_failed`, `storage_validation_failed`; `conflict` if it
 * was changed or deleted while the bucket was checked, or if another config of the environment
 * writes the same object
 */
export async function patchConfig(
  dependencies: ConfigDependencies,
  actor: Actor,
  environmentId: string,
  configId: string,
  patch: ConfigPatch,
): Promise<ConfigWithHistory> {
  const { db, encryptionKeys, now, cancelRuns } = dependencies;
  const found = await getConfig(db, environmentId, configId);
  const { config } = found;
  const { settings, accessKeyId, newSecret, ...patched } = readConfigPatch(config, patch);
  if (patched.changed.length === 0) return found;
  const isMoved = patched.changed.some(field => decidesObject.includes(field));
  if (isMoved) await refuseSameObject(db, environmentId, configId, settings);
  if (patched.needsCheck) {
    const secretAccessKey = newSecret ?? secretOf(dependencies, config);
    requireValid(
      await checkConfig(
        dependencies,
        environmentId,
        settings,
        { accessKeyId, secretAccessKey },
        now(),
      ),
    );
  }
  const changedAt = now();
  const changed: ExportConfig = {
    ...config,
    ...settings,
    accessKeyId,
    sealedSecret:
      newSecret === null
        ? config.sealedSecret
        : sealSecret(encryptionKeys, newSecret, { environmentId, configId }),
    turnedOff: settings.enabled ? null : config.turnedOff,
    activeSince: patched.startsAnew ? changedAt : config.activeSince,
    // Strictly increasing, because it detects concurrent changes.
    updatedAt: new Date(Math.max(changedAt.getTime(), config.updatedAt.getTime() + 1)),
  };
  await db.transaction().execute(async trx => {
    if (isMoved) {
      await lockEnvironment(trx, environmentId);
      await refuseSameObject(trx, environmentId, configId, settings);
    }
    if (!(await replaceConfig(trx, changed, config, patched.needsCheck))) {
      throw new AppError(
        'conflict',
        'The config was changed or deleted meanwhile. Read it and try again.',
      );
    }
    if (patched.isTurnedOff) await cancelRuns(trx, config, now());
    await recordChange(trx, actor, {
      environmentId,
      action: patched.isTurnedOff ? 'export_config.turned_off' : 'export_config.updated',
      targetId: configId,
      details: {
        changed: patched.changed,
        ...(patched.isMoved && { destination: auditedDestination(changed) }),
      },
    });
  });
  return await getConfig(db, environmentId, configId);
}

/**
 * Deletes a config. Callers no longer see it. A worker that executes one of its runs stops within a
 * second, cleans up the bucket and deletes the remaining rows. Otherwise they are deleted at once.
 * @throws AppError `not_found`
 */
export async function deleteConfig(
  { db, now, cancelRuns }: ConfigDependencies,
  actor: Actor,
  environmentId: string,
  configId: string,
): Promise<void> {
  const config = { environmentId, id: configId };
  await db.transaction().execute(async trx => {
    await hideConfig(trx, config, now());
    await cancelRuns(trx, config, now());
    await purgeConfigs(trx, config);
    await recordChange(trx, actor, {
      environmentId,
      action: 'export_config.deleted',
      targetId: configId,
    });
  });
}

/** Returns the audited fields of a destination: where the data goes and with which access key. */
function auditedDestination({ destination, accessKeyId }: ExportConfig) {
  return { ...destination, accessKeyId };
}

/**
 * Decrypts the secret of a config.
 * @throws Error if its encryption key is not configured any more
 */
export function secretOf(
  { encryptionKeys }: Pick<ConfigDependencies, 'encryptionKeys'>,
  config: ExportConfig,
): string {
  const owner = { environmentId: config.environmentId, configId: config.id };
  return openSecret(encryptionKeys, config.sealedSecret, owner);
}
