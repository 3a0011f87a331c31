import { Type } from '@fastify/type-provider-typebox';
import { formatBucketUrl } from '../destinations/bucket-url.ts';
import { type EncryptionBody, encryptionTypes } from '../destinations/encryption.ts';
import type { Plan } from '../environments/plans.ts';
import { environmentParams } from '../environments/routes.ts';
import { schedules } from '../export-runs/schedule.ts';
import { date, instant, literals, nullable } from '../http/schemas.ts';
import type { ConfigWithHistory } from './list-configs.ts';
import { describeStatus, type ExportStatus } from './status.ts';

/** The shapes of bodies and answers about automatic exports. */

export const tags = ['Automatic export'];
export const mayRead = { access: { environment: 'exports:read' } } as const;
/** Reading and deleting need no plan: who went down to a lower one may still tidy up. */
export const mayDelete = { access: { environment: 'exports:write' } } as const;
export const mayWrite = {
  access: { environment: 'exports:write', feature: 'automatic_export' },
} as const;

export const readProblems = [
  'validation_failed',
  'unauthenticated',
  'insufficient_scope',
  'not_found',
] as const;
export const bodyProblems = [
  ...readProblems,
  'plan_upgrade_required',
  'payload_too_large',
  'unsupported_media_type',
] as const;

const id = (description: string) =>
  Type.String({
    pattern: '^[A-Za-z0-9_-]{1,64}$',
    description,
    examples: ['9b2f6f0e-8c43-4f0e-9d27-6d8a4f1f7a55'],
  });

export const configParams = Type.Object({
  ...environmentParams.properties,
  configId: id('The export config.'),
});
export const runParams = Type.Object({ ...environmentParams.properties, runId: id('The run.') });
export const configRunParams = Type.Object({ ...configParams.properties, runId: id('The run.') });

const text = (description: string, examples: string[], maxLength = 2_048) =>
  Type.String({ maxLength, pattern: '^[^\\u0000]*$', description, examples });

const provider = literals(['aws', 'gcp', 'custom'], {
  description: 'Amazon S3, Google Cloud Storage, or any other storage that speaks S3.',
});
const schedule = literals(schedules, {
  description: 'Every day at 00:00 UTC, or on Mondays at 00:00 UTC.',
  examples: ['daily'],
});
const compression = literals(['none', 'gzip'], {
  description: 'Default: `none`.',
  examples: ['none'],
});

const encryption = {
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

const fields = {
  name: text('For people. Outer spaces are dropped.', ['Nightly to S3'], 200),
  enabled: Type.Boolean({ description: 'Default: true.' }),
  schedule,
  provider,
  bucketUrl: text(
    '`aws` alone, and needed there: `https://<bucket>.s3.<region>.amazonaws.com[/folder]`. The folder may have the placeholders of `key`.',
    ['https://acme.s3.eu-west-1.amazonaws.com/exports/bucket'],
  ),
  bucket: text('`gcp` and `custom`, needed there.', ['acme-exports']),
  region: text('`gcp` and `custom`, needed there.', ['europe-west1']),
  key: text(
    '`gcp` and `custom`: the folder; default: the bucket’s root. `{date}`, `{year}`, `{month}` and `{day}` of the snapshot date and `{environmentId}` are replaced; other placeholders are refused.',
    ['exports/bucket', 'exports/date={date}'],
  ),
  endpoint: text('`custom` alone, and needed there: scheme, host and port.', [
    'https://minio.example.com:9000',
  ]),
  accessKeyId: text('Of the storage; for Google Cloud an HMAC key.', ['AKIAIOSFODNN7EXAMPLE']),
  secretAccessKey: Type.String({
    maxLength: 2_048,
    writeOnly: true,
    description: 'Stored encrypted; no answer ever holds it.',
  }),
  compression,
  encryption: Type.Unsafe<EncryptionBody | null>({
    ...encryption,
    description:
      'Server-side encryption, sent with every upload; null (default) leaves it to the bucket. Not for `gcp`.',
  }),
  manifest: Type.Boolean({
    description:
      'Whether a JSON manifest is written to `<folder>/_manifest/<file name>.json` after each file. It is removed before the file is replaced. Default: false.',
  }),
};

const { name, provider: _p, schedule: _s, accessKeyId, secretAccessKey, ...rest } = fields;
export const newConfigBody = Type.Object(
  {
    name,
    schedule,
    provider,
    accessKeyId,
    secretAccessKey,
    ...Type.Partial(Type.Object(rest)).properties,
  },
  { additionalProperties: false, description: 'A field of another provider is an error.' },
);
export const configPatchBody = Type.Object(Type.Partial(Type.Object(fields)).properties, {
  additionalProperties: false,
  description:
    'What is absent stays. `secretAccessKey` is needed again when provider, endpoint or bucket change; where the provider changes, nothing of the old destination is carried over.',
});

const runError = Type.Unsafe<{ code: string; message: string } | null>({
  anyOf: [
    Type.Object({
      code: Type.String({
        description:
          'A `storageError` code, `snapshot_missing`, `cancelled`, `plan_upgrade_required` or `internal_error`.',
        examples: ['secret_key_mismatch'],
      }),
      message: Type.String(),
    }),
    { type: 'null' },
  ],
});

export const statusSchema = Type.Object(
  {
    status: literals(['never ran before', 'successful', 'failed'], {
      description: 'How the last finished run ended.',
    }),
    running: Type.Boolean(),
    lastRunAt: nullable(instant('When the last finished run finished.')),
    lastSuccessfulRunAt: nullable(instant('When the last successful run finished.')),
    nextRunAt: nullable(instant('Null when the config is off or the plan does not allow it.')),
    error: { ...runError, description: 'Of the last finished run; null once one succeeds.' },
    turnedOff: Type.Unsafe<ExportStatus['turnedOff']>({
      anyOf: [
        Type.Object({
          code: literals(['too_many_failures']),
          message: Type.String(),
          at: instant(),
        }),
        { type: 'null' },
      ],
      description:
        'Ten slots in a row failed because of the configuration, so the config turned itself off. Null once it is turned on again.',
    }),
  },
  { description: 'How the export is doing.' },
);

export const configSchema = Type.Object(
  {
    id: Type.String(),
    name: Type.String(),
    enabled: Type.Boolean(),
    schedule,
    provider,
    bucketUrl: nullable(Type.String({ description: '`aws` alone.' })),
    bucket: Type.String(),
    region: Type.String(),
    key: Type.String({ description: 'The folder; empty: the bucket’s root.' }),
    endpoint: nullable(Type.String({ description: '`custom` alone.' })),
    accessKeyId: Type.String(),
    compression,
    encryption: Type.Unsafe<EncryptionBody | null>(encryption),
    manifest: Type.Boolean(),
    createdAt: instant(),
    updatedAt: instant(),
    status: statusSchema,
  },
  { description: 'An automatic export. Its secret is never shown.' },
);

/** A stored config as answers show it. */
export function presentConfig({ config, history }: ConfigWithHistory, plan: Plan, now: Date) {
  const { destination } = config;
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
    accessKeyId: config.accessKeyId,
    compression: config.compression,
    encryption: config.encryption,
    manifest: config.manifest,
    createdAt: config.createdAt.toISOString(),
    updatedAt: config.updatedAt.toISOString(),
    status: describeStatus(config, history, plan, now),
  };
}

export const checkResultSchema = Type.Object(
  {
    valid: Type.Boolean({ description: 'Both checks passed.' }),
    checks: Type.Array(
      Type.Object({
        name: literals(['list', 'write']),
        ok: Type.Boolean(),
        error: Type.Unsafe<{ code: string; message: string; hint: string } | null>({
          anyOf: [
            Type.Object({
              code: Type.String({ examples: ['bucket_not_found'] }),
              message: Type.String(),
              hint: Type.String({ description: 'What to do about it.' }),
            }),
            { type: 'null' },
          ],
        }),
      }),
    ),
  },
  { description: 'What the bucket said.' },
);

const nullableInteger = (description: string) =>
  Type.Unsafe<number | null>({ type: ['integer', 'null'], description });

export const runSchema = Type.Object(
  {
    id: Type.String(),
    configId: Type.String(),
    trigger: literals(['schedule', 'manual']),
    slot: nullable(instant('The scheduled instant; null for a manual run.')),
    snapshotDate: date('The snapshot that it exports.'),
    state: literals(['queued', 'running', 'successful', 'failed'], {
      description: '`queued`: waiting for its snapshot, for its turn, or for the next attempt.',
    }),
    attempts: Type.Integer(),
    createdAt: instant(),
    startedAt: nullable(instant('Of the first attempt.')),
    finishedAt: nullable(instant()),
    rowCount: nullableInteger('Rows in the file.'),
    bytes: nullableInteger('Size of the object, compressed if it is.'),
    sha256: nullable(Type.String({ description: 'Of the object, hexadecimal.' })),
    objectKey: nullable(Type.String({ description: 'Where the object is in the bucket.' })),
    error: {
      ...runError,
      description: 'Why it failed; while it is queued again, what the last attempt met.',
    },
  },
  { description: 'One execution of an export config.' },
);
