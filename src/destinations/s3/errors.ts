/**
 * Describes storage errors so that a customer can act on them.
 *
 * Errors are identified by HTTP status and the provider's code, or by Node's code if there was no
 * answer. Messages of providers are ignored: each words them differently, and RADOS Gateway leaves
 * them empty. Only the code and the region of an answer are shown, and only if they have the
 * expected form.
 */
import type { Destination } from '../destination.ts';
import { type Cause, causeOf } from './error-codes.ts';

export const storageErrorCodes = [
  'access_key_not_recognised',
  'secret_key_mismatch',
  'bucket_not_found',
  'wrong_region',
  'list_denied',
  'write_denied',
  'encryption_denied',
  'endpoint_not_allowed',
  'endpoint_unreachable',
  'timeout',
  'tls_error',
  'not_s3',
  'clock_skew',
  'storage_unavailable',
  'unknown',
] as const;
export type StorageErrorCode = (typeof storageErrorCodes)[number];

/** Storage error that callers see as `storageError`. */
export interface StorageFault {
  readonly code: StorageErrorCode;
  readonly message: string;
  readonly hint: string;
}

/** Failed request: of the check, of the upload of a run, or the removal of a manifest. */
export type StorageStep = 'list' | 'write' | 'abort' | 'upload' | 'remove';

export interface StorageContext {
  readonly step: StorageStep;
  readonly destination: Destination;
  /** Access key id of the request. Hints recognize temporary keys by it. */
  readonly accessKeyId?: string;
}

/** Storage error as an exception. `cause` is the error of the SDK, only for the operator's log. */
export class StorageError extends Error {
  override readonly name = 'StorageError';
  readonly fault: StorageFault;

  constructor(fault: StorageFault, cause: unknown) {
    super(fault.message, { cause });
    this.fault = fault;
  }
}

/** Errors that last until the configuration or the bucket is changed. */
export const configurationFaults: readonly StorageErrorCode[] = [
  'access_key_not_recognised',
  'secret_key_mismatch',
  'bucket_not_found',
  'wrong_region',
  'list_denied',
  'write_denied',
  'encryption_denied',
  'not_s3',
  'endpoint_not_allowed',
];

/**
 * Returns true if a run is retried after this error. Certificate errors and unknown codes count as
 * transient: both have been seen to pass, and a run that fails misses its slot.
 */
export function isTransient(code: StorageErrorCode): boolean {
  return !configurationFaults.includes(code);
}

/**
 * Describes an error of the S3 client.
 * @param error any thrown value
 */
export function describeStorageError(error: unknown, context: StorageContext): StorageFault {
  return describeCause(causeOf(error), context);
}

/**
 * Returns true if a list was answered like a read of an object, because the endpoint's host names a
 * bucket.
 */
export function isBucketInEndpoint(error: unknown): boolean {
  return causeOf(error).kind === 'no_such_key';
}

/**
 * Describes an endpoint whose host names a bucket, so that the bucket in the path becomes part of a
 * key.
 */
export function bucketInEndpoint({ endpoint, bucket }: Destination): StorageFault {
  return {
    code: 'not_s3',
    message: `${endpoint} is the address of a bucket, not of the storage: leave the bucket out of the endpoint.`,
    hint: `Give the storage's endpoint without a bucket in its host name; \`${bucket}\` belongs into \`bucket\` alone.`,
  };
}

function describeCause(cause: Cause, context: StorageContext): StorageFault {
  const { destination } = context;
  const { bucket, region, provider } = destination;
  const place = placeOf(destination);
  switch (cause.kind) {
    case 'access_key_not_recognised':
    case 'temporary_key':
      return {
        code: 'access_key_not_recognised',
        message: 'The storage does not recognise the access key id.',
        hint:
          cause.kind === 'temporary_key' || isTemporaryKey(context.accessKeyId)
            ? temporaryKeyHint
            : accessKeyHints[provider],
      };
    case 'secret_key_mismatch':
      return {
        code: cause.kind,
        message: 'The secret access key does not belong to the access key id.',
        hint: 'Copy the complete secret again. If it is lost, create a new pair of keys.',
      };
    case 'bucket_not_found':
      return {
        code: cause.kind,
        message: `There is no bucket \`${bucket}\` at ${place}.`,
        hint: withEndpointHint(
          'Check the name for typing errors, or create the bucket first. This service does not create buckets.',
          destination,
        ),
      };
    case 'wrong_region':
      return wrongRegion(cause.rightRegion, destination);
    case 'denied':
      return denied(context);
    case 'suspended':
      return {
        ...denied(context),
        message: 'The account of the access key is suspended or may not use this storage.',
        hint: "Ask the storage's administrator to enable the account.",
      };
    case 'locked':
      return {
        ...denied(context),
        message: `A retention rule or lock of the bucket \`${bucket}\` forbids to replace the object (${cause.shown}).`,
        hint: 'A repeated run writes the same object again. Use a bucket without that rule, or turn on versioning.',
      };
    case 'encryption_denied':
      return encryptionDenied(cause.shown);
    case 'endpoint_not_allowed':
      return {
        code: cause.kind,
        message: 'The endpoint may not be used: it is not a public https address.',
        hint: 'Check the spelling of the host, and use https. Only the operator of this service can allow private addresses.',
      };
    case 'endpoint_unreachable':
      return {
        code: cause.kind,
        message: `No connection to ${place} could be made or kept.`,
        hint: unreachableHints[provider],
      };
    case 'timeout':
      return {
        code: cause.kind,
        message: `${place} did not answer in time.`,
        hint: timeoutHints[provider],
      };
    case 'tls_error':
      return {
        code: cause.kind,
        message: `No secure connection to ${place}: its certificate or protocol is not accepted.`,
        hint: tlsHints[provider],
      };
    case 'not_s3':
    case 'not_implemented':
      return {
        code: 'not_s3',
        message: `${place} answered, but not as S3 storage does.`,
        hint: withEndpointHint(notS3Hints[provider], destination),
      };
    case 'clock_skew':
      return {
        code: cause.kind,
        message: 'The clock of the storage and the clock of this service differ too much.',
        hint: clockHints[provider],
      };
    case 'full':
      return {
        code: 'storage_unavailable',
        message: `The storage or its quota is full (${cause.shown}).`,
        hint: 'Delete unneeded objects, or raise the quota of the bucket or account. Runs are retried until then.',
      };
    case 'storage_unavailable':
      return {
        code: cause.kind,
        message: `The storage is not available at the moment (${cause.shown}).`,
        hint: `This usually passes. If it does not, check ${statusPages[provider]}.`,
      };
    case 'no_such_key':
      if (context.step === 'list' && provider === 'custom') return bucketInEndpoint(destination);
      return unknownError(cause.shown, region);
    case 'unknown':
      return unknownError(cause.shown, region);
  }
}

function unknownError(shown: string, region: string): StorageFault {
  return {
    code: 'unknown',
    message: `The storage refused with an unknown error: ${shown} (region \`${region}\`).`,
    hint: "The storage's documentation explains its error codes.",
  };
}

function placeOf({ provider, endpoint }: Destination): string {
  return endpoint ?? (provider === 'gcp' ? 'Google Cloud Storage' : 'Amazon S3');
}

/** Returns true for a temporary key. AWS STS and compatible storage give such keys this prefix. */
export function isTemporaryKey(accessKeyId: string | undefined): boolean {
  return accessKeyId?.startsWith('ASIA') === true;
}

const temporaryKeyHint =
  'This is a temporary key (ASIA…): it expires and needs a session token, which is not supported. Use a long-lived access key of a user made for this purpose.';

const accessKeyHints = {
  aws: 'Copy the access key id again, and check in IAM that it is active.',
  gcp: 'Use an HMAC key (its access id starts with GOOG) that is active, not the JSON of a service account.',
  custom: 'Copy the access key id again, and check that it is active and belongs to this endpoint.',
} as const;

const unreachableHints = {
  aws: 'Check the region in the bucket URL for typing errors. If it is right, this usually passes; otherwise ask the operator of this service.',
  gcp: 'This usually passes. If it does not, ask the operator of this service.',
  custom: 'Check host and port, and that firewalls let this service in.',
} as const;

const timeoutHints = {
  aws: 'Try again. If it happens again, check the AWS Health Dashboard.',
  gcp: 'Try again. If it happens again, check the Google Cloud Service Health page.',
  custom: 'Check host and port, and that the storage is up; then try again.',
} as const;

const tlsHints = {
  aws: 'Another server, such as a proxy, answers instead of Amazon S3. Ask the operator of this service.',
  gcp: 'Another server, such as a proxy, answers instead of Google. Ask the operator of this service.',
  custom:
    'The certificate must be valid, made for this host name, and signed by a public authority; the port must speak https.',
} as const;

const notS3Hints = {
  aws: 'Another server, such as a proxy, answers instead of Amazon S3. Ask the operator of this service.',
  gcp: 'Another server, such as a proxy, answers instead of Google. Ask the operator of this service.',
  custom:
    "Give the address of the S3 API, not of a web console or website, and the provider's address for your region.",
} as const;

const clockHints = {
  aws: 'Ask the operator of this service to check its clock.',
  gcp: 'Ask the operator of this service to check its clock.',
  custom: "Check the clock of the storage. If it is right, tell this service's operator.",
} as const;

const statusPages = {
  aws: 'the AWS Health Dashboard',
  gcp: 'the Google Cloud Service Health page',
  custom: 'the status of the storage',
} as const;

/**
 * Adds a hint if the host starts with the name of the bucket. That is a common mistake, but may be
 * correct.
 */
function withEndpointHint(hint: string, { endpoint, bucket }: Destination): string {
  const host = endpoint === null ? '' : new URL(endpoint).hostname;
  return host.startsWith(`${bucket.toLowerCase()}.`)
    ? `${hint} If the host name of the endpoint starts with your bucket, leave the bucket out of the endpoint.`
    : hint;
}

function wrongRegion(rightRegion: string | null, destination: Destination): StorageFault {
  const { bucket, region, provider } = destination;
  const where = provider === 'aws' ? ' in `bucketUrl`' : '';
  return rightRegion === null || rightRegion === region
    ? {
        code: 'wrong_region',
        message: `The bucket \`${bucket}\` is not in \`${region}\`; change the region.`,
        hint: `The properties of the bucket show its region. Write it${where} instead of \`${region}\`.`,
      }
    : {
        code: 'wrong_region',
        message: `The bucket \`${bucket}\` is in \`${rightRegion}\`; change the region.`,
        hint: `Write \`${rightRegion}\`${where} instead of \`${region}\`.`,
      };
}

/** Describes a refused encryption. `shown` is the code of the provider. */
export function encryptionDenied(shown: string): StorageFault {
  return {
    code: 'encryption_denied',
    message: `The storage refuses the encryption, or its key may not be used (${shown}).`,
    hint: 'Check that the key exists, is enabled and is in the region of the bucket, and that the access key may use it (kms:GenerateDataKey and kms:Decrypt).',
  };
}

const listRights = {
  aws: 's3:ListBucket on the bucket',
  gcp: 'storage.objects.list on the bucket',
  custom: 's3:ListBucket on the bucket',
} as const;

const writeRights = {
  aws: 's3:PutObject on the objects',
  gcp: 'storage.objects.create and storage.objects.delete on the bucket',
  custom: 's3:PutObject on the objects',
} as const;

const abortRights = {
  aws: 's3:AbortMultipartUpload on the objects',
  gcp: 'storage.multipartUploads.abort on the bucket',
  custom: 's3:AbortMultipartUpload on the objects',
} as const;

const removeRights = {
  aws: 's3:DeleteObject on the objects under _manifest/',
  gcp: 'storage.objects.delete on the bucket',
  custom: 's3:DeleteObject on the objects under _manifest/',
} as const;

function denied({ step, destination }: StorageContext): StorageFault {
  const { bucket, key, provider } = destination;
  const folder = key === '' ? '' : `, under \`${key}/\``;
  switch (step) {
    case 'list':
      return {
        code: 'list_denied',
        message: `The access key may not list the bucket \`${bucket}\`${folder}.`,
        hint: withEndpointHint(
          `Allow ListBucket for this key (${listRights[provider]}).`,
          destination,
        ),
      };
    case 'abort':
      return {
        code: 'write_denied',
        message: `The access key may start uploads to the bucket \`${bucket}\`${folder}, but not abort them.`,
        hint: `Allow AbortMultipartUpload for this key (${abortRights[provider]}), so that no unfinished upload stays.`,
      };
    case 'remove':
      return {
        code: 'write_denied',
        message: `The access key may not delete the manifest of an object that is written again, in the bucket \`${bucket}\`${folder}.`,
        hint: `Allow DeleteObject on manifests for this key (${removeRights[provider]}).`,
      };
    case 'write':
    case 'upload':
      return {
        code: 'write_denied',
        message: `The access key may not write to the bucket \`${bucket}\`${folder}.`,
        hint: `Allow PutObject for this key (${writeRights[provider]}). If the bucket has an encryption key, allow its use. If a policy demands encryption, set \`encryption\`.`,
      };
  }
}
