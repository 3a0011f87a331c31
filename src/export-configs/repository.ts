import type { Selectable } from 'kysely';
import type { DatabaseOrTransaction } from '../db/database.ts';
import type { Tables } from '../db/tables.ts';
import type { Destination, Role } from '../destinations/destination.ts';
import type { Encryption } from '../destinations/encryption.ts';
import type { Provider } from '../destinations/names.ts';
import { notFound } from '../shared/errors.ts';
import type { Compression, FileFormat } from '../shared/file-format.ts';
import type { CatchUp, Schedule } from './schedule.ts';
import type { AutoDisabled } from './status.ts';

type ConfigRow = Selectable<Tables['export_configs']>;

/** Primary key of a config. */
export interface ConfigKey {
  readonly environmentId: string;
  readonly id: string;
}

/** Settings of a customer for an export, without credentials. */
export interface ConfigSettings {
  readonly name: string;
  readonly enabled: boolean;
  readonly schedule: Schedule;
  readonly destination: Destination;
  readonly format: FileFormat;
  /** `none` for Parquet, which compresses inside the file. */
  readonly compression: Compression;
  /** True if a manifest is written for each object. */
  readonly manifest: boolean;
  /** Server-side encryption; null for the default of the bucket. */
  readonly encryption: Encryption | null;
  /** Missed slots that run after an outage. */
  readonly catchUp: CatchUp;
  /** True if a snapshot that is replaced after its delivery is delivered again. */
  readonly redeliver: boolean;
}

/** Access key whose secret is encrypted. */
export interface StoredKey {
  readonly accessKeyId: string;
  readonly sealedSecret: string;
}

/** Stored export config. */
export interface ExportConfig extends ConfigSettings, ConfigKey {
  readonly access: StoredKey | Role;
  /** Time and reason if the service turned the config off; null once it is turned on again. */
  readonly turnedOff: AutoDisabled | null;
  /** The first slot is the next one after this time. */
  readonly activeSince: Date;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

/** Maximum number of export configs of one environment. */
export const maxConfigs = 50;

/** Returns the number of configs that callers see. */
export async function countConfigs(
  db: DatabaseOrTransaction,
  environmentId: string,
): Promise<number> {
  const { count } = await db
    .selectFrom('export_configs')
    .select(eb => eb.fn.countAll<string>().as('count'))
    .where('environment_id', '=', environmentId)
    .where('deleted_at', 'is', null)
    .executeTakeFirstOrThrow();
  return Number(count);
}

export async function insertConfig(db: DatabaseOrTransaction, config: ExportConfig): Promise<void> {
  await db
    .insertInto('export_configs')
    .values({
      environment_id: config.environmentId,
      id: config.id,
      created_at: config.createdAt,
      ...toColumns(config),
    })
    .execute();
}

/**
 * Stores a changed config.
 * @param read state to which the change was applied
 * @param isProven true if the bucket passed its check; resets the count of failed slots
 * @returns false if the config was changed or deleted meanwhile
 */
export async function replaceConfig(
  db: DatabaseOrTransaction,
  config: ExportConfig,
  read: ExportConfig,
  isProven: boolean,
): Promise<boolean> {
  const { sealed_secret, ...settings } = toColumns(config);
  const columns = { ...settings, ...(isProven && { faulty_slots_in_a_row: 0 }) };
  const hasSameSecret = sealed_secret === toColumns(read).sealed_secret;
  const result = await db
    .updateTable('export_configs')
    // An unchanged secret is not written, because it may have been encrypted with a new key
    // meanwhile.
    .set(hasSameSecret ? columns : { ...columns, sealed_secret })
    .where('environment_id', '=', config.environmentId)
    .where('id', '=', config.id)
    .where('updated_at', '=', read.updatedAt)
    .where('deleted_at', 'is', null)
    .executeTakeFirst();
  return result.numUpdatedRows === 1n;
}

/** Returns where the configs of an environment write, in the same order every time. */
export async function listTargets(
  db: DatabaseOrTransaction,
  environmentId: string,
): Promise<Pick<ExportConfig, 'id' | 'name' | 'destination' | 'format' | 'compression'>[]> {
  const rows = await db
    .selectFrom('export_configs')
    .selectAll()
    .where('environment_id', '=', environmentId)
    .where('deleted_at', 'is', null)
    .orderBy('created_at')
    .orderBy('id')
    .execute();
  return rows.map(toConfig);
}

/**
 * Hides a config from callers.
 * @throws AppError `not_found`
 */
export async function hideConfig(
  db: DatabaseOrTransaction,
  config: ConfigKey,
  now: Date,
): Promise<void> {
  const result = await db
    .updateTable('export_configs')
    .set({ deleted_at: now, enabled: false })
    .where('environment_id', '=', config.environmentId)
    .where('id', '=', config.id)
    .where('deleted_at', 'is', null)
    .executeTakeFirst();
  if (result.numUpdatedRows === 0n) throw notFound('export config');
}

/**
 * Deletes hidden configs with their runs and secrets. Skips configs with a run that still has to
 * clean up the bucket, and configs that another transaction changes or deletes.
 */
export async function purgeConfigs(db: DatabaseOrTransaction, only?: ConfigKey): Promise<void> {
  const hidden = db
    .selectFrom('export_configs as config')
    .select(['config.environment_id', 'config.id'])
    .where('config.deleted_at', 'is not', null)
    .where(({ and, val }) =>
      only === undefined
        ? val(true)
        : and({ 'config.environment_id': only.environmentId, 'config.id': only.id }),
    )
    .where(({ exists, not, selectFrom }) =>
      not(
        exists(
          selectFrom('export_runs as run')
            .select('run.id')
            .whereRef('run.environment_id', '=', 'config.environment_id')
            .whereRef('run.config_id', '=', 'config.id')
            .where('run.job_id', 'is not', null),
        ),
      ),
    )
    .forUpdate('config')
    .skipLocked();
  await db
    .deleteFrom('export_configs')
    .where(({ eb, refTuple }) =>
      eb(refTuple('environment_id', 'id'), 'in', hidden.$asTuple('environment_id', 'id')),
    )
    .execute();
}

function toColumns({ destination, access, ...config }: ExportConfig) {
  const role = 'roleArn' in access ? access : null;
  const key = 'roleArn' in access ? null : access;
  return {
    name: config.name,
    enabled: config.enabled,
    schedule: config.schedule,
    provider: destination.provider,
    bucket: destination.bucket,
    region: destination.region,
    key: destination.key,
    endpoint: destination.endpoint,
    access_key_id: key?.accessKeyId ?? null,
    sealed_secret: key?.sealedSecret ?? null,
    role_arn: role?.roleArn ?? null,
    external_id: role?.externalId ?? null,
    format: config.format,
    compression: config.compression,
    manifest: config.manifest,
    encryption: config.encryption?.type ?? null,
    kms_key_id: config.encryption?.kmsKeyId ?? null,
    catch_up: config.catchUp,
    redeliver: config.redeliver,
    turned_off_at: config.turnedOff?.at ?? null,
    turned_off_message: config.turnedOff?.message ?? null,
    active_since: config.activeSince,
    updated_at: config.updatedAt,
  };
}

/** The check constraints allow an access key with its secret, or a role with its external id. */
function toAccess(row: ConfigRow): ExportConfig['access'] {
  return row.role_arn === null
    ? { accessKeyId: row.access_key_id ?? '', sealedSecret: row.sealed_secret ?? '' }
    : { roleArn: row.role_arn, externalId: row.external_id ?? '' };
}

/** Converts a row of `export_configs`. */
export function toConfig(row: ConfigRow): ExportConfig {
  return {
    environmentId: row.environment_id,
    id: row.id,
    name: row.name,
    enabled: row.enabled,
    // The check constraints allow nothing else.
    schedule: row.schedule as Schedule,
    destination: {
      provider: row.provider as Provider,
      bucket: row.bucket,
      region: row.region,
      key: row.key,
      endpoint: row.endpoint,
    },
    format: row.format as FileFormat,
    compression: row.compression as Compression,
    manifest: row.manifest,
    encryption:
      row.encryption === null
        ? null
        : { type: row.encryption as Encryption['type'], kmsKeyId: row.kms_key_id },
    catchUp: row.catch_up as CatchUp,
    redeliver: row.redeliver,
    access: toAccess(row),
    turnedOff:
      row.turned_off_at === null || row.turned_off_message === null
        ? null
        : { at: row.turned_off_at, message: row.turned_off_message },
    activeSince: row.active_since,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  };
}
