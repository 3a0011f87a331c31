/**
 * What went wrong at a customer's storage, in words that the customer can act on. Pure. Told apart by HTTP status and
 * the provider's Code, or by Node's code when there was no answer; never by message, which providers word as they like
 * (RADOS Gateway leaves it empty). Nothing of an answer is repeated but its Code and region, and those only in shape.
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

/** Shown to the caller as it is: `storageError` of the contract. */
export interface StorageFault {
  readonly code: StorageErrorCode;
  readonly message: string;
  readonly hint: string;
}

/** What was being done: a check's list, write or its abort; or a run's upload. */
export type StorageStep = 'list' | 'write' | 'abort' | 'upload';

export interface StorageContext {
  readonly step: StorageStep;
  readonly destination: Destination;
}

/** A storage fault as an exception; `cause` is what the SDK threw, for logs of the operator alone. */
export class StorageError extends Error {
  override readonly name = 'StorageError';
  readonly fault: StorageFault;

  constructor(fault: StorageFault, cause: unknown) {
    super(fault.message, { cause });
    this.fault = fault;
  }
}

/** Configuration faults (contract, section 6): only the customer can mend them. */
export const configurationFaults: readonly StorageErrorCode[] = [
  'access_key_not_recognised',
  'secret_key_mismatch',
  'bucket_not_found',
  'wrong_region',
  'list_denied',
  'write_denied',
  'not_s3',
  'endpoint_not_allowed',
];

/**
 * Whether a run may meet better luck later. All but configuration faults are tried again, certificates and unknown
 * answers included: both have been seen to pass by themselves, and a run that gave up on them would miss its slot for
 * a fault of minutes.
 */
export function isTransient(code: StorageErrorCode): boolean {
  return !configurationFaults.includes(code);
}

/** `error`: whatever the S3 client threw. */
export function describeStorageError(error: unknown, context: StorageContext): StorageFault {
  return describeCause(causeOf(error), context);
}

function describeCause(cause: Cause, context: StorageContext): StorageFault {
  const { bucket, region, provider, endpoint } = context.destination;
  const place = endpoint ?? (provider === 'gcp' ? 'Google Cloud Storage' : 'Amazon S3');
  switch (cause.kind) {
    case 'access_key_not_recognised':
      return {
        code: cause.kind,
        message: `The storage does not recognise the access key id.`,
        hint: accessKeyHints[provider],
      };
    case 'secret_key_mismatch':
      return {
        code: cause.kind,
        message: 'The secret access key does not belong to the access key id.',
        hint: 'Copy the secret again, whole. If it is lost, make a new pair of keys.',
      };
    case 'bucket_not_found':
      return {
        code: cause.kind,
        message: `There is no bucket \`${bucket}\` at ${place}.`,
        hint: 'Look for a typing error, or make the bucket first. This service does not make buckets.',
      };
    case 'wrong_region':
      return wrongRegion(cause.rightRegion, context);
    case 'denied':
      return denied(context);
    case 'suspended':
      return {
        ...denied(context),
        message: `The account that the access key belongs to is suspended or may not use this storage.`,
        hint: "Ask the storage's administrator to enable the account.",
      };
    case 'endpoint_not_allowed':
      return {
        code: cause.kind,
        message: 'The endpoint may not be used: it is not a public https address.',
        hint: 'Check the spelling of the host, and use https. Private addresses need the operator of this service, who can allow them.',
      };
    case 'endpoint_unreachable':
      return {
        code: cause.kind,
        message: `No connection to ${place} could be made or kept.`,
        hint: 'Check host and port, and that firewalls let this service in.',
      };
    case 'timeout':
      return {
        code: cause.kind,
        message: `${place} did not answer in time.`,
        hint: 'Check host and port, and that the storage is up; then try again.',
      };
    case 'tls_error':
      return {
        code: cause.kind,
        message: `No secure connection to ${place}: its certificate or protocol is not accepted.`,
        hint: 'The certificate must be valid, made for this host name, and signed by a public authority; the port must speak https.',
      };
    case 'not_s3':
      return {
        code: cause.kind,
        message: `${place} answered, but not as S3 storage does.`,
        hint: "Give the address of the S3 API, not of a web console or website, and the provider's own for your region.",
      };
    case 'clock_skew':
      return {
        code: cause.kind,
        message: 'The storage says that its clock and the clock of this service differ too much.',
        hint: "Check the clock of the storage. If it is right, tell this service's operator.",
      };
    case 'storage_unavailable':
      return {
        code: cause.kind,
        message: `The storage is not available at the moment (${cause.shown}).`,
        hint: 'This usually passes. If it does not, look at the status of the storage.',
      };
    case 'unknown':
      return {
        code: cause.kind,
        message: `The storage refused with an error that is not known here: ${cause.shown} (region \`${region}\`).`,
        hint: "The storage's documentation explains its error codes.",
      };
  }
}

const accessKeyHints = {
  aws: 'Copy the access key id again, and check in IAM that it is active.',
  gcp: 'Use an HMAC key (its access id starts with GOOG) that is active, not the JSON of a service account.',
  custom: 'Copy the access key id again, and check that it is active and belongs to this endpoint.',
} as const;

function wrongRegion(rightRegion: string | null, { destination }: StorageContext): StorageFault {
  const { bucket, region } = destination;
  return rightRegion === null || rightRegion === region
    ? {
        code: 'wrong_region',
        message: `The bucket \`${bucket}\` is not in \`${region}\`; change the region.`,
        hint: "The bucket's properties say in which region it is.",
      }
    : {
        code: 'wrong_region',
        message: `The bucket \`${bucket}\` is in \`${rightRegion}\`; change the region.`,
        hint: `Write \`${rightRegion}\` in the place of \`${region}\`.`,
      };
}

function denied({ step, destination: { bucket, key } }: StorageContext): StorageFault {
  const folder = key === '' ? '' : `, under \`${key}/\``;
  switch (step) {
    case 'list':
      return {
        code: 'list_denied',
        message: `The access key may not list the bucket \`${bucket}\`${folder}.`,
        hint: 'Allow ListBucket on the bucket for this key (s3:ListBucket; on Google Cloud storage.objects.list).',
      };
    case 'abort':
      return {
        code: 'write_denied',
        message: `The access key may start uploads to the bucket \`${bucket}\`${folder}, but not abort them.`,
        hint: 'Allow AbortMultipartUpload on the objects for this key (s3:AbortMultipartUpload), so that nothing half-done stays.',
      };
    case 'write':
    case 'upload':
      return {
        code: 'write_denied',
        message: `The access key may not write to the bucket \`${bucket}\`${folder}.`,
        hint: 'Allow PutObject on the objects for this key (s3:PutObject; on Google Cloud storage.objects.create and delete), and the use of its encryption key if the bucket has one.',
      };
  }
}
