import { formatBucketUrl } from '../destinations/bucket-url.ts';
import {
  type Destination,
  type DestinationBody,
  type DestinationField,
  destinationFields,
  fieldsOf,
  type Parsed,
  parseCredentials,
  parseDestination,
  parseRoleArn,
} from '../destinations/destination.ts';
import {
  type Encryption,
  type EncryptionBody,
  parseEncryption,
} from '../destinations/encryption.ts';
import type { Provider } from '../destinations/names.ts';
import { type FieldError, validationFailed } from '../shared/errors.ts';
import {
  type Compression,
  compressionErrors,
  type FileForm,
  type FileFormat,
} from '../shared/file-format.ts';
import type { ConfigSettings, ExportConfig } from './repository.ts';
import type { CatchUp, Schedule } from './schedule.ts';

/** Converts request bodies to config settings. */

interface DestinationFields {
  readonly bucketUrl?: string;
  readonly bucket?: string;
  readonly region?: string;
  readonly key?: string;
  readonly endpoint?: string;
}

/** Access in a request body. Null stands for an absent field. */
interface AccessBody {
  readonly accessKeyId?: string | null;
  readonly secretAccessKey?: string;
  readonly roleArn?: string | null;
}

/** Access that a caller asks for: a role, or an access key. */
export type AskedAccess =
  | { readonly roleArn: string }
  | {
      readonly accessKeyId: string;
      /** Null to keep the stored secret. */
      readonly secretAccessKey: string | null;
    };

/** Returns true if the stored secret of an access key is kept. */
export function keepsSecret(
  access: AskedAccess,
): access is { readonly accessKeyId: string; readonly secretAccessKey: null } {
  return 'accessKeyId' in access && access.secretAccessKey === null;
}

export interface NewConfigBody extends DestinationFields, AccessBody {
  readonly name: string;
  readonly enabled?: boolean;
  readonly schedule: Schedule;
  readonly provider: Provider;
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
  access: AskedAccess;
} {
  const name = body.name.trim();
  const { format = 'csv', compression = 'none' } = body;
  const { destination, access, encryption } = requireParsed(name, [], {
    destination: parseDestination(body),
    access: parseAccess(body, body.provider, null),
    encryption: parseEncryption(body.encryption ?? null, body.provider),
    form: { format, compression },
  });
  return {
    settings: {
      name,
      enabled: body.enabled ?? true,
      schedule: body.schedule,
      destination,
      format,
      compression,
      manifest: body.manifest ?? false,
      catchUp: body.catchUp ?? 'newest',
      redeliver: body.redeliver ?? false,
      encryption,
    },
    access,
  };
}

export interface PatchedConfig {
  readonly settings: ConfigSettings;
  readonly access: AskedAccess;
  /** True if the bucket must be checked before this is stored. */
  readonly needsCheck: boolean;
  /** True if the destination, the encryption or the access change. */
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
  current: ConfigSettings & Pick<ExportConfig, 'access'>,
  patch: ConfigPatch,
): PatchedConfig {
  const name = patch.name?.trim() ?? current.name;
  const provider = patch.provider ?? current.destination.provider;
  const format = patch.format ?? current.format;
  const compression = patch.compression ?? current.compression;
  const nulls = provider === current.destination.provider ? nullErrors(patch, provider) : [];
  const { destination, access, encryption } = requireParsed(name, nulls, {
    destination: parseDestination(mergeDestination(current.destination, patch, provider)),
    access: parseAccess(patch, provider, current),
    encryption: parseEncryption(
      patch.encryption === undefined ? keptEncryption(current, provider) : patch.encryption,
      provider,
    ),
    form: { format, compression },
  });

  const moved = (['provider', 'endpoint', 'bucket'] as const).find(
    part => destination[part] !== current.destination[part],
  );
  if (moved !== undefined && keepsSecret(access)) {
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
  const changedAccess = accessChanges(current.access, access);
  const changedEncryption =
    JSON.stringify(encryption) === JSON.stringify(current.encryption) ? [] : ['encryption'];
  const changedDestination = changedFields(current.destination, destination);
  const isMoved = [changedDestination, changedAccess, changedEncryption].some(
    names => names.length > 0,
  );
  return {
    settings: { enabled, schedule, ...settings, destination, encryption },
    access,
    needsCheck: isTurnedOn || isMoved,
    isMoved,
    startsAnew: isTurnedOn || schedule !== current.schedule,
    isTurnedOff: !enabled && current.enabled,
    changed: [
      ...changedFields({ ...current }, { enabled, schedule, ...settings }),
      ...changedDestination,
      ...changedEncryption,
      ...changedAccess,
    ],
  };
}

/**
 * Parses the access of a body. A role and an access key exclude each other: the one that the body
 * names replaces the stored one.
 *
 * @param current config that is changed, or null for a new one
 */
function parseAccess(
  body: AccessBody,
  provider: Provider,
  current: (ConfigSettings & Pick<ExportConfig, 'access'>) | null,
): Parsed<AskedAccess> {
  const stored = current?.access ?? null;
  const namesKey = isGiven(body.accessKeyId) || isGiven(body.secretAccessKey);
  const keepsRole = !namesKey && body.roleArn === undefined && provider === 'aws';
  const storedRole = stored !== null && 'roleArn' in stored ? stored.roleArn : undefined;
  const roleArn = body.roleArn ?? (keepsRole ? storedRole : undefined);
  if (roleArn !== undefined) {
    const role = parseRoleArn(roleArn, provider);
    if (!role.ok) return role;
    const message = 'excludes accessKeyId and secretAccessKey: send a role or an access key';
    return namesKey
      ? { ok: false, errors: [{ path: '/roleArn', message }] }
      : { ok: true, value: { roleArn: role.value } };
  }
  const storedKey = stored !== null && 'accessKeyId' in stored ? stored : null;
  const isKept = body.accessKeyId === undefined;
  const accessKeyId = isKept ? storedKey?.accessKeyId : (body.accessKeyId ?? undefined);
  // Only the form is checked. The stored secret passed that check before.
  const secretAccessKey = body.secretAccessKey ?? (storedKey && 'stored');
  if (accessKeyId === undefined || secretAccessKey === null) {
    const absent = { accessKeyId, secretAccessKey: secretAccessKey ?? undefined };
    const message = provider === 'aws' ? 'is required without roleArn' : 'is required';
    const errors = Object.entries(absent).flatMap(([name, value]) =>
      value === undefined ? [{ path: `/${name}`, message }] : [],
    );
    return { ok: false, errors };
  }
  const key = parseCredentials({ accessKeyId, secretAccessKey });
  if (!key.ok || body.secretAccessKey !== undefined) return key;
  return { ok: true, value: { accessKeyId: key.value.accessKeyId, secretAccessKey: null } };
}

function isGiven(value: string | null | undefined): value is string {
  return value !== null && value !== undefined;
}

/** Returns the names of changed fields. A new secret always counts as changed. */
function accessChanges(before: ExportConfig['access'], after: AskedAccess): string[] {
  const shown = (access: ExportConfig['access'] | AskedAccess) => ({
    roleArn: 'roleArn' in access ? access.roleArn : null,
    accessKeyId: 'roleArn' in access ? null : access.accessKeyId,
  });
  const hasNewSecret = 'accessKeyId' in after && after.secretAccessKey !== null;
  return [
    ...changedFields(shown(before), shown(after)),
    ...(hasNewSecret ? ['secretAccessKey'] : []),
  ];
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

/** Parts of a body that were parsed. */
interface ParsedParts {
  readonly destination: Parsed<Destination>;
  readonly access: Parsed<AskedAccess>;
  readonly encryption: Encryption | null | FieldError;
  readonly form: FileForm;
}

/**
 * Returns the values of the parts.
 *
 * @throws AppError `validation_failed` with the errors of all parts and with `others`
 */
function requireParsed(
  name: string,
  others: readonly FieldError[],
  { destination, access, encryption, form }: ParsedParts,
): { destination: Destination; access: AskedAccess; encryption: Encryption | null } {
  const errors = [
    ...nameErrors(name),
    ...others,
    ...errorsOf(destination),
    ...errorsOf(access),
    ...(isFieldError(encryption) ? [encryption] : []),
    ...compressionErrors(form),
  ];
  if (!destination.ok || !access.ok || isFieldError(encryption) || errors.length > 0) {
    throw validationFailed(errors);
  }
  return { destination: destination.value, access: access.value, encryption };
}

function isFieldError(parsed: Encryption | null | FieldError): parsed is FieldError {
  return parsed !== null && 'path' in parsed;
}

/** Null does not remove a field of the provider. */
function nullErrors(patch: ConfigPatch, provider: Provider): FieldError[] {
  return fieldsOf(provider)
    .filter(field => patch[field] === null)
    .map(field => ({ path: `/${field}`, message: 'must not be null' }));
}

function nameErrors(name: string): FieldError[] {
  return name === '' ? [{ path: '/name', message: 'must not be empty' }] : [];
}

function errorsOf(
  parsed: { ok: true } | { ok: false; errors: readonly FieldError[] },
): readonly FieldError[] {
  return parsed.ok ? [] : parsed.errors;
}
