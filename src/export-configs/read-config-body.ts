import { formatBucketUrl } from '../destinations/bucket-url.ts';
import {
  type Credentials,
  type Destination,
  type DestinationBody,
  type DestinationField,
  destinationFields,
  fieldsOf,
  parseCredentials,
  parseDestination,
} from '../destinations/destination.ts';
import {
  type Encryption,
  type EncryptionBody,
  parseEncryption,
} from '../destinations/encryption.ts';
import type { Provider } from '../destinations/names.ts';
import type { Compression } from '../destinations/object-key.ts';
import { type FieldFault, validationFailed } from '../shared/errors.ts';
import type { FileFormat } from '../shared/file-format.ts';
import type { ConfigSettings } from './repository.ts';
import type { CatchUp, Schedule } from './schedule.ts';

/** Converts request bodies to config settings. */

interface DestinationFields {
  readonly bucketUrl?: string;
  readonly bucket?: string;
  readonly region?: string;
  readonly key?: string;
  readonly endpoint?: string;
}

export interface NewConfigBody extends DestinationFields {
  readonly name: string;
  readonly enabled?: boolean;
  readonly schedule: Schedule;
  readonly provider: Provider;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly format?: FileFormat;
  readonly compression?: Compression;
  readonly manifest?: boolean;
  readonly catchUp?: CatchUp;
  readonly redeliver?: boolean;
  readonly encryption?: EncryptionBody | null;
}

/** Fields of a change. Null stands for an absent field of another provider. */
export type ConfigPatch = Omit<Partial<NewConfigBody>, DestinationField> & {
  readonly [Field in DestinationField]?: string | null;
};

/**
 * Validates the body of a new config.
 * @throws AppError `validation_failed` that names every invalid field
 */
export function readNewConfig(body: NewConfigBody): {
  settings: ConfigSettings;
  credentials: Credentials;
} {
  const name = body.name.trim();
  const destination = parseDestination(body);
  const credentials = parseCredentials(body);
  const encryption = parseEncryption(body.encryption ?? null, body.provider);
  const { format = 'csv', compression = 'none' } = body;
  const faults = [
    ...nameFaults(name),
    ...faultsOf(destination),
    ...faultsOf(credentials),
    ...encryptionFaults(encryption),
    ...compressionFaults(format, compression),
  ];
  if (!destination.ok || !credentials.ok || isFault(encryption) || faults.length > 0) {
    throw validationFailed(faults);
  }
  return {
    settings: {
      name,
      enabled: body.enabled ?? true,
      schedule: body.schedule,
      destination: destination.value,
      format,
      compression,
      manifest: body.manifest ?? false,
      catchUp: body.catchUp ?? 'newest',
      redeliver: body.redeliver ?? false,
      encryption,
    },
    credentials: credentials.value,
  };
}

export interface PatchedConfig {
  readonly settings: ConfigSettings;
  readonly accessKeyId: string;
  /** New secret; null to keep the stored one. */
  readonly newSecret: string | null;
  /** True if the bucket must be checked before this is stored. */
  readonly needsCheck: boolean;
  /** True if the destination or the credentials change. */
  readonly isMoved: boolean;
  /** True if the schedule starts again: the first slot is the next one after now. */
  readonly startsAnew: boolean;
  readonly isTurnedOff: boolean;
  /** Names of the changed fields. A new secret always counts as changed. */
  readonly changed: readonly string[];
}

/**
 * Applies the fields of the body to a stored config.
 * @throws AppError `validation_failed`, also if endpoint, bucket or provider change without
 * `secretAccessKey`
 */
export function readConfigPatch(
  current: ConfigSettings & { readonly accessKeyId: string },
  patch: ConfigPatch,
): PatchedConfig {
  const name = patch.name?.trim() ?? current.name;
  const provider = patch.provider ?? current.destination.provider;
  const destination = parseDestination(mergeDestination(current.destination, patch, provider));
  const credentials = parseCredentials({
    accessKeyId: patch.accessKeyId ?? current.accessKeyId,
    // Only its form is checked. The stored secret passed that check before.
    secretAccessKey: patch.secretAccessKey ?? 'stored',
  });
  const format = patch.format ?? current.format;
  const compression = patch.compression ?? current.compression;
  const encryption = parseEncryption(
    patch.encryption === undefined ? keptEncryption(current, provider) : patch.encryption,
    provider,
  );
  const faults = [
    ...nameFaults(name),
    ...(provider === current.destination.provider ? nullFaults(patch, provider) : []),
    ...faultsOf(destination),
    ...faultsOf(credentials),
    ...encryptionFaults(encryption),
    ...compressionFaults(format, compression),
  ];
  if (!destination.ok || !credentials.ok || isFault(encryption) || faults.length > 0) {
    throw validationFailed(faults);
  }

  const { accessKeyId, secretAccessKey } = credentials.value;
  const newSecret = patch.secretAccessKey === undefined ? null : secretAccessKey;
  const moved = (['provider', 'endpoint', 'bucket'] as const).find(
    part => destination.value[part] !== current.destination[part],
  );
  if (moved !== undefined && newSecret === null) {
    const message = `is required when the ${moved} changes`;
    throw validationFailed([{ path: '/secretAccessKey', message }]);
  }
  const { enabled, schedule, ...settings } = {
    name,
    enabled: patch.enabled ?? current.enabled,
    schedule: patch.schedule ?? current.schedule,
    format,
    compression,
    manifest: patch.manifest ?? current.manifest,
    catchUp: patch.catchUp ?? current.catchUp,
    redeliver: patch.redeliver ?? current.redeliver,
  };
  const isTurnedOn = enabled && !current.enabled;
  const changedCredentials = [
    ...(accessKeyId === current.accessKeyId ? [] : ['accessKeyId']),
    ...(newSecret === null ? [] : ['secretAccessKey']),
  ];
  const changedEncryption =
    JSON.stringify(encryption) === JSON.stringify(current.encryption) ? [] : ['encryption'];
  const changedDestination = changedFields(current.destination, destination.value);
  return {
    settings: { enabled, schedule, ...settings, destination: destination.value, encryption },
    accessKeyId,
    newSecret,
    needsCheck:
      isTurnedOn ||
      [changedDestination, changedCredentials, changedEncryption].some(names => names.length > 0),
    isMoved: changedDestination.length > 0 || changedCredentials.length > 0,
    startsAnew: isTurnedOn || schedule !== current.schedule,
    isTurnedOff: !enabled && current.enabled,
    changed: [
      ...changedFields({ ...current }, { enabled, schedule, ...settings }),
      ...changedDestination,
      ...changedEncryption,
      ...changedCredentials,
    ],
  };
}

/** Returns the names of fields whose values differ. */
function changedFields<T extends object>(before: T, after: Partial<T>): string[] {
  return (Object.keys(after) as (keyof T & string)[]).filter(
    field => after[field] !== before[field],
  );
}

/**
 * Merges the fields of the body into the destination. A change of provider drops all old fields.
 */
function mergeDestination(
  current: Destination,
  patch: ConfigPatch,
  provider: Provider,
): DestinationBody {
  const isKept = provider === current.provider;
  const given = Object.fromEntries(
    destinationFields
      .map(field => [field, patch[field] ?? undefined] as const)
      .filter(
        ([field, value]) => value !== undefined && !(isKept && isDerived(current, field, value)),
      ),
  );
  return { provider, ...(isKept ? shownDestination(current) : {}), ...given };
}

/** Returns true for a value that responses derive from `bucketUrl`. It changes nothing. */
function isDerived(current: Destination, field: DestinationField, value: string): boolean {
  if (current.provider !== 'aws' || field === 'bucketUrl') return false;
  return current[field] === value;
}

/** Returns the fields of a destination in the form of a body. */
function shownDestination(destination: Destination): DestinationFields {
  const { provider, bucket, region, key, endpoint } = destination;
  if (provider === 'aws') return { bucketUrl: formatBucketUrl(destination) };
  return { bucket, region, key, ...(endpoint === null ? {} : { endpoint }) };
}

/** Nothing of another provider is carried over. */
function keptEncryption(current: ConfigSettings, provider: Provider): Encryption | null {
  return provider === current.destination.provider ? current.encryption : null;
}

function isFault(parsed: Encryption | null | FieldFault): parsed is FieldFault {
  return parsed !== null && 'path' in parsed;
}

function encryptionFaults(parsed: Encryption | null | FieldFault): FieldFault[] {
  return isFault(parsed) ? [parsed] : [];
}

/** Null does not remove a field of the provider. */
function nullFaults(patch: ConfigPatch, provider: Provider): FieldFault[] {
  return fieldsOf(provider)
    .filter(field => patch[field] === null)
    .map(field => ({ path: `/${field}`, message: 'must not be null' }));
}

function compressionFaults(format: FileFormat, compression: Compression): FieldFault[] {
  if (format === 'csv' || compression === 'none') return [];
  return [{ path: '/compression', message: 'must be none for the format parquet' }];
}

function nameFaults(name: string): FieldFault[] {
  return name === '' ? [{ path: '/name', message: 'must not be empty' }] : [];
}

function faultsOf(
  parsed: { ok: true } | { ok: false; faults: readonly FieldFault[] },
): readonly FieldFault[] {
  return parsed.ok ? [] : parsed.faults;
}
