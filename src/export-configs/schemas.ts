import { type TProperties, Type } from '@fastify/type-provider-typebox';
import { formatBucketUrl } from '../destinations/bucket-url.ts';
import { type EncryptionBody, encryptionTypes } from '../destinations/encryption.ts';
import type { Plan } from '../environments/plans.ts';
import { environmentParams } from '../environments/routes.ts';
import { writeProblems } from '../http/problem.ts';
import { documentedAs, fileFormat, instant, literals, nullable } from '../http/schemas.ts';
import { compressions } from '../shared/file-format.ts';
import type { ConfigWithHistory } from './list-configs.sql.ts';
import { catchUpDays, catchUps, schedules } from './schedule.ts';
import { describeStatus } from './status.ts';
import { statusSchema } from './status-schemas.ts';

/** Defines the schemas of bodies and responses of automatic exports. */

export const tags = ['Automatic export'];
export const mayRead = { access: { environment: 'exports:read' } } as const;
/**
 * Access to delete. Reading and deleting need no plan, so that customers can clean up after a
 * downgrade.
 */
export const mayDelete = { access: { environment: 'exports:write' } } as const;
export const mayWrite = {
  access: { environment: 'exports:write', feature: 'automatic_export' },
} as const;

/** Limits of checks of a bucket, for the descriptions of routes. */
export const checkLimits =
  'A process checks 8 endpoints at once, 2 of an environment. It refuses more with ' +
  '`rate_limited`, after a wait of at most 2 s.';

/** Problems of a route that needs the plan. */
export const planProblems = [...writeProblems, 'plan_upgrade_required'] as const;

export const id = (description: string) =>
  Type.String({
    pattern: '^[A-Za-z0-9_-]{1,64}$',
    description,
    examples: ['9b2f6f0e-8c43-4f0e-9d27-6d8a4f1f7a55'],
  });

export const configParams = Type.Object({
  ...environmentParams.properties,
  configId: id('The export config.'),
});

const text = (description: string, examples: string[], maxLength = 2_048) =>
  Type.String({ maxLength, pattern: '^[^\\u0000]*$', description, examples });

const providers = ['aws', 'gcp', 'custom'] as const;
const provider = literals(providers, {
  title: 'Provider',
  description: 'Amazon S3, Google Cloud Storage, or another S3-compatible storage.',
});
const schedule = literals(schedules, {
  title: 'Schedule',
  description: 'Every day at 00:00 UTC, or on Mondays at 00:00 UTC.',
  examples: ['daily'],
});
const compression = literals(compressions, {
  title: 'Compression',
  description: 'Default: `none`. Must be `none` for the format `parquet`.',
  examples: ['none'],
});

const catchUp = literals(catchUps, {
  title: 'CatchUp',
  description: `Missed slots that run after an outage: only the newest, or all of the last ${catchUpDays} days in order. Default: \`newest\`.`,
  examples: ['newest'],
});
const redeliver = Type.Boolean({
  description:
    'True to deliver a snapshot again that is replaced after its slot was delivered. Default: false.',
});

const encryption = {
  title: 'Encryption',
  type: ['object', 'null'],
  additionalProperties: false,
  required: ['type'],
  properties: {
    type: literals(encryptionTypes),
    kmsKeyId: {
      type: ['string', 'null'],
      maxLength: 2_048,
      pattern: '^[^\\u0000]*$',
      description:
        'For `aws:kms`: id, ARN or alias of the key. Default: the default key of the storage.',
      examples: ['arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab'],
    },
  },
};

const accessKeyId = text(
  'Access key id of the storage. For Google Cloud, that of an HMAC key. Required without `roleArn`.',
  ['AKIAIOSFODNN7EXAMPLE'],
);

const fields = {
  name: text('Display name. It is trimmed.', ['Nightly to S3'], 200),
  enabled: Type.Boolean({ description: 'Default: true.' }),
  schedule,
  provider,
  bucketUrl: text(
    'Required for `aws`, not allowed otherwise: `https://<bucket>.s3.<region>.amazonaws.com[/folder]`. The folder may have the placeholders of `key`.',
    ['https://acme.s3.eu-west-1.amazonaws.com/exports/bucket'],
  ),
  bucket: text(
    'Required for `gcp` and `custom`, not allowed otherwise. For a tenant of Ceph: `tenant:bucket`.',
    ['acme-exports'],
  ),
  region: text('Required for `gcp` and `custom`, not allowed otherwise.', ['europe-west1']),
  key: text(
    'Folder, only for `gcp` and `custom`. Default: the root of the bucket. Placeholders: `{environmentId}`, and `{date}`, `{year}`, `{month}` and `{day}` of the snapshot date. Other placeholders are errors.',
    ['exports/bucket', 'exports/date={date}'],
  ),
  endpoint: text(
    'Scheme, host and port, and the path of a storage that has one. Required for `custom`, not allowed otherwise.',
    ['https://minio.example.com:9000', 'https://abc.supabase.co/storage/v1/s3'],
  ),
  accessKeyId: nullable(accessKeyId),
  secretAccessKey: Type.String({
    maxLength: 2_048,
    writeOnly: true,
    description: 'Stored encrypted and never returned. Required without `roleArn`.',
  }),
  roleArn: nullable(
    text(
      'Only for `aws`: ARN of a role that the service assumes instead of using an access key. Its trust policy must demand the `externalId` of the environment. See `docs/guides/aws-role.md`.',
      ['arn:aws:iam::123456789012:role/exports'],
    ),
  ),
  format: fileFormat,
  compression,
  encryption: Type.Unsafe<EncryptionBody | null>({
    ...encryption,
    description:
      'Server-side encryption of every upload. Null (default) uses the setting of the bucket. Not for `gcp`.',
  }),
  manifest: Type.Boolean({
    description:
      'True to write a JSON manifest to `<folder>/_manifest/<file name>.json` after each file. It is deleted before the file is replaced. Default: false.',
  }),
  catchUp,
  redeliver,
};

const { name, provider: _p, schedule: _s, ...rest } = fields;
const { bucketUrl, bucket, region, key, endpoint, ...others } = rest;
const { accessKeyId: _a, secretAccessKey, roleArn, ...options } = others;
const accessKey = { accessKeyId, secretAccessKey };
const keyOrRole = Type.Partial(Type.Object({ ...accessKey, roleArn })).properties;

/** Returns the body for one provider as `openapi.yaml` shows it. */
function inputOf(provider: (typeof providers)[number], title: string, destination: TProperties) {
  const { encryption: _e, ...gcpOptions } = options;
  const optional: TProperties = provider === 'gcp' ? gcpOptions : options;
  return Type.Object(
    {
      name,
      schedule,
      provider: Type.Literal(provider),
      ...destination,
      ...Type.Partial(Type.Object(optional)).properties,
    },
    { title, additionalProperties: false },
  );
}

const folder = { key: Type.Optional(key) };
export const newConfigBody = documentedAs(
  Type.Object(
    {
      name,
      schedule,
      provider,
      ...Type.Partial(Type.Object(rest)).properties,
    },
    { additionalProperties: false },
  ),
  {
    title: 'ExportConfigInput',
    description: 'Fields of other providers are errors.',
    oneOf: [
      inputOf('aws', 'AwsExportConfigInput', { bucketUrl, ...keyOrRole }),
      inputOf('gcp', 'GcpExportConfigInput', { bucket, region, ...folder, ...accessKey }),
      inputOf('custom', 'CustomExportConfigInput', {
        ...{ endpoint, bucket, region, ...folder },
        ...accessKey,
      }),
    ],
    discriminator: {
      propertyName: 'provider',
      mapping: {
        aws: '#/components/schemas/AwsExportConfigInput',
        gcp: '#/components/schemas/GcpExportConfigInput',
        custom: '#/components/schemas/CustomExportConfigInput',
      },
    },
  },
);

export const configSchema = Type.Object(
  {
    id: Type.String(),
    name: Type.String(),
    enabled: Type.Boolean(),
    schedule,
    provider,
    bucketUrl: nullable(Type.String({ description: 'Null unless the provider is `aws`.' })),
    bucket: Type.String(),
    region: Type.String(),
    key: Type.String({ description: 'Folder; empty for the root of the bucket.' }),
    endpoint: nullable(Type.String({ description: 'Null unless the provider is `custom`.' })),
    accessKeyId: nullable(Type.String({ description: 'Null if the config has a role.' })),
    roleArn: nullable(Type.String({ description: 'Null if the config has an access key.' })),
    externalId: nullable(
      Type.String({
        description: 'External id of the environment if the config has a role, else null.',
      }),
    ),
    format: fileFormat,
    compression,
    encryption: Type.Unsafe<EncryptionBody | null>(encryption),
    manifest: Type.Boolean(),
    catchUp,
    redeliver,
    createdAt: instant(),
    updatedAt: instant(),
    status: statusSchema,
  },
  { title: 'ExportConfig', description: 'Automatic export. Its secret is never returned.' },
);

/** Fields of a destination. In a change, null stands for an absent field of another provider. */
const destinationFields = {
  bucketUrl: nullable(bucketUrl),
  bucket: nullable(bucket),
  region: nullable(region),
  key: nullable(key),
  endpoint: nullable(endpoint),
};

/** Properties of responses that are no fields of a body. A change ignores them. */
const readOnlyFields = Object.fromEntries(
  Object.keys(configSchema.properties)
    .filter(name => !Object.hasOwn(fields, name))
    .map(name => [name, Type.Optional(Type.Unknown({ description: 'Ignored.' }))]),
);

export const configPatchBody = Type.Object(
  {
    ...Type.Partial(Type.Object({ ...fields, ...destinationFields })).properties,
    ...(readOnlyFields as Record<never, never>),
  },
  {
    title: 'ExportConfigPatch',
    additionalProperties: false,
    description:
      'Absent fields keep their value. Accepts a config as it was read: read-only properties are ' +
      'ignored, and so are `bucket`, `region` and `key` as read from an `aws` config, where ' +
      '`bucketUrl` holds them. `secretAccessKey` is required if provider, endpoint or bucket ' +
      'change. A role and an access key exclude each other: the one in the body replaces the ' +
      'stored one. If the provider changes, no field of the old destination is kept.',
  },
);

/** Converts a stored config to the form of responses. */
export function presentConfig({ config, history }: ConfigWithHistory, plan: Plan, now: Date) {
  const { destination, access } = config;
  const role = 'roleArn' in access ? access : null;
  return {
    id: config.id,
    name: config.name,
    enabled: config.enabled,
    schedule: config.schedule,
    provider: destination.provider,
    bucketUrl: destination.provider === 'aws' ? formatBucketUrl(destination) : null,
    bucket: destination.bucket,
    region: destination.region,
    key: destination.key,
    endpoint: destination.endpoint,
    accessKeyId: 'accessKeyId' in access ? access.accessKeyId : null,
    roleArn: role?.roleArn ?? null,
    externalId: role?.externalId ?? null,
    format: config.format,
    compression: config.compression,
    encryption: config.encryption,
    manifest: config.manifest,
    catchUp: config.catchUp,
    redeliver: config.redeliver,
    createdAt: config.createdAt.toISOString(),
    updatedAt: config.updatedAt.toISOString(),
    status: describeStatus(config, history, plan, now),
  };
}
