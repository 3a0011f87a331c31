import { randomUUID } from 'node:crypto';
import { type Actor, recordChange } from '../audit/audit-log-repository.ts';
import type { EncryptionKey } from '../config/config.ts';
import type { Database, DatabaseOrTransaction } from '../db/database.ts';
import { type Access, isRole } from '../destinations/destination.ts';
import { openSecret, sealSecret } from '../encryption/secrets.ts';
import { lockEnvironment, requireRoom } from '../environments/environments-repository.ts';
import { readExternalId } from '../environments/external-ids-repository.ts';
import { AppError, validationFailed } from '../shared/errors.ts';
import { type CheckDependencies, checkConfig, requireValid } from './check-config.ts';
import { type ConfigWithHistory, getConfig } from './list-configs.sql.ts';
import {
  type AskedAccess,
  type ConfigPatch,
  keepsSecret,
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
  const { settings, access } = readNewConfig(body);
  const requireRoomForOne = async (executor: DatabaseOrTransaction) => {
    const count = await countConfigs(executor, environmentId);
    requireRoom(count, maxConfigs, 'export configs', 'Delete one first.');
  };
  await requireRoomForOne(db);
  await refuseSameObject(db, environmentId, null, settings);
  const granted = await grantAccess(dependencies, environmentId, access);
  requireValid(await checkConfig(dependencies, environmentId, settings, granted, now()));
  const owner = { environmentId, configId: randomUUID() };
  const createdAt = now();
  const config: ExportConfig = {
    ...settings,
    environmentId,
    id: owner.configId,
    access: sealAccess(encryptionKeys, granted, owner),
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
 * Changes a config, or does nothing if the patch changes nothing. Turning it off cancels its runs.
 * After it is turned on or its schedule changes, the first run is at the next slot.
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
  const { settings, access: asked, ...patched } = readConfigPatch(config, patch);
  if (patched.changed.length === 0) return found;
  const writesElsewhere = patched.changed.some(field => decidesObject.includes(field));
  if (writesElsewhere) await refuseSameObject(db, environmentId, configId, settings);
  let { access } = config;
  if (patched.needsCheck) {
    const granted = await grantAccess(dependencies, environmentId, asked, config);
    requireValid(await checkConfig(dependencies, environmentId, settings, granted, now()));
    access =
      keepsSecret(asked) && 'sealedSecret' in access
        ? { ...access, accessKeyId: asked.accessKeyId }
        : sealAccess(encryptionKeys, granted, { environmentId, configId });
  }
  const changedAt = now();
  const changed: ExportConfig = {
    ...config,
    ...settings,
    access,
    turnedOff: settings.enabled ? null : config.turnedOff,
    activeSince: patched.startsAnew ? changedAt : config.activeSince,
    // Strictly increasing, because it detects concurrent changes.
    updatedAt: new Date(Math.max(changedAt.getTime(), config.updatedAt.getTime() + 1)),
  };
  await db.transaction().execute(async trx => {
    if (writesElsewhere) {
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

/** Returns the audited fields of a destination: where the data goes, how and by which right. */
function auditedDestination({ destination, encryption, access }: ExportConfig) {
  const right =
    'roleArn' in access ? { roleArn: access.roleArn } : { accessKeyId: access.accessKeyId };
  return { ...destination, encryption, ...right };
}

/**
 * Completes the access that a caller asked for: with the stored secret, or with the external id of
 * the environment.
 *
 * @param stored config whose secret is kept if the caller sent none
 * @throws AppError `validation_failed` if it is a role and the service cannot assume roles
 */
export async function grantAccess(
  dependencies: ConfigDependencies,
  environmentId: string,
  asked: AskedAccess,
  stored?: ExportConfig,
): Promise<Access> {
  if ('roleArn' in asked) {
    await requireRoles(dependencies);
    const externalId = await readExternalId(dependencies.db, environmentId);
    return { roleArn: asked.roleArn, externalId };
  }
  const { accessKeyId, secretAccessKey } = asked;
  if (secretAccessKey !== null) return { accessKeyId, secretAccessKey };
  const kept = stored && accessOf(dependencies, stored);
  if (kept === undefined || isRole(kept)) throw new Error('there is no stored secret');
  return { ...kept, accessKeyId };
}

async function requireRoles({ clientEnvironment: { roles } }: ConfigDependencies): Promise<void> {
  const refuse = (message: string) => validationFailed([{ path: '/roleArn', message }]);
  if (!roles) throw refuse('is not supported: the operator of this service has not turned it on');
  if (!(await roles.hasIdentity())) {
    throw refuse('cannot be used: the operator of this service has not set up an AWS identity');
  }
}

/** Encrypts the secret of an access key. */
function sealAccess(
  encryptionKeys: ConfigDependencies['encryptionKeys'],
  granted: Access,
  owner: { environmentId: string; configId: string },
): ExportConfig['access'] {
  if (isRole(granted)) return granted;
  const { accessKeyId, secretAccessKey } = granted;
  return { accessKeyId, sealedSecret: sealSecret(encryptionKeys, secretAccessKey, owner) };
}

/**
 * Returns the access of a config with its secret decrypted.
 * @throws Error if its encryption key is not configured any more
 */
export function accessOf(
  { encryptionKeys }: Pick<ConfigDependencies, 'encryptionKeys'>,
  { environmentId, id, access }: ExportConfig,
): Access {
  if ('roleArn' in access) return access;
  const { accessKeyId, sealedSecret } = access;
  const owner = { environmentId, configId: id };
  return { accessKeyId, secretAccessKey: openSecret(encryptionKeys, sealedSecret, owner) };
}
