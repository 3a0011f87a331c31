/**
 * Words storage errors so that a customer can act on them. Hints for Amazon and Google mention
 * nothing that their users cannot change, such as hosts and ports.
 */
import { type Access, type Destination, isRole } from '../destination.ts';
import type { Provider } from '../names.ts';
import type { Cause } from './error-codes.ts';

/** Failed request: of the check, of the upload of a run, or the removal of a manifest. */
export type StorageStep = 'list' | 'write' | 'abort' | 'upload' | 'remove';

export interface StorageContext {
  readonly step: StorageStep;
  readonly destination: Destination;
  /** Access to the bucket. Hints recognize temporary keys by it, and name the external id. */
  readonly access?: Access;
}

export interface Wording {
  readonly message: string;
  readonly hint: string;
}

type PerProvider = Readonly<Record<Provider, string>>;

const hints = {
  accessKey: {
    aws: 'Copy the access key id again, and check in IAM that it is active.',
    gcp: 'Use an HMAC key (its access id starts with GOOG) that is active, not the JSON of a service account.',
    custom:
      'Copy the access key id again, and check that it is active and belongs to this endpoint.',
  },
  unreachable: {
    aws: 'Check the region in the bucket URL for typing errors. If it is right, this usually passes; otherwise ask the operator of this service.',
    gcp: 'This usually passes. If it does not, ask the operator of this service.',
    custom: 'Check host and port, and that firewalls let this service in.',
  },
  timeout: {
    aws: 'Try again. If it happens again, check the AWS Health Dashboard.',
    gcp: 'Try again. If it happens again, check the Google Cloud Service Health page.',
    custom: 'Check host and port, and that the storage is up; then try again.',
  },
  tls: elsewhere(
    'The certificate must be valid, made for this host name, and signed by a public authority; the port must speak https.',
  ),
  notS3: elsewhere(
    "Give the address of the S3 API, not of a web console or website, and the provider's address for your region.",
  ),
  clock: {
    aws: 'Ask the operator of this service to check its clock.',
    gcp: 'Ask the operator of this service to check its clock.',
    custom: "Check the clock of the storage. If it is right, tell this service's operator.",
  },
  unavailable: {
    aws: 'This usually passes. If it does not, check the AWS Health Dashboard.',
    gcp: 'This usually passes. If it does not, check the Google Cloud Service Health page.',
    custom: 'This usually passes. If it does not, check the status of the storage.',
  },
} satisfies Record<string, PerProvider>;

/** Returns hints for an address at which Amazon or Google would answer correctly. */
function elsewhere(custom: string): PerProvider {
  const hint = (name: string) =>
    `Another server, such as a proxy, answers instead of ${name}. Ask the operator of this service.`;
  return { aws: hint('Amazon S3'), gcp: hint('Google'), custom };
}

const temporaryKeyHint =
  'A temporary key (ASIA…) expires and needs a session token, which is not supported. Use a long-lived access key of a user made for this purpose.';

/** Describes the cause of a failed request. */
export function wordingOf(cause: Cause, context: StorageContext): Wording {
  const { destination } = context;
  const { bucket, region, provider } = destination;
  const place = placeOf(destination);
  switch (cause.kind) {
    case 'access_key_not_recognised':
    case 'temporary_key': {
      const isTemporary = cause.kind === 'temporary_key' || isTemporaryKey(context.access);
      return {
        message: 'The storage does not recognise the access key id.',
        hint: isTemporary ? temporaryKeyHint : hints.accessKey[provider],
      };
    }
    case 'secret_key_mismatch':
      return {
        message: 'The secret access key does not belong to the access key id.',
        hint: 'Copy the complete secret again. If it is lost, create a new pair of keys.',
      };
    case 'bucket_not_found':
      return {
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
        message: 'The account of the access key is suspended or may not use this storage.',
        hint: "Ask the storage's administrator to enable the account.",
      };
    case 'locked':
      return {
        message: `A retention rule or lock of the bucket \`${bucket}\` forbids replacing the object (${cause.shown}).`,
        hint: 'A repeated run writes the same object again. Use a bucket without that rule, or turn on versioning.',
      };
    case 'encryption_denied':
      return {
        message: `The storage refuses the encryption, or its key may not be used (${cause.shown}).`,
        hint: 'Check that the key exists, is enabled and is in the region of the bucket, and that the access key may use it (kms:GenerateDataKey and kms:Decrypt).',
      };
    case 'endpoint_not_allowed':
      return {
        message: 'The endpoint may not be used: it is not a public https address.',
        hint: 'Check the spelling of the host, and use https. Only the operator of this service can allow private addresses.',
      };
    case 'endpoint_unreachable':
      return {
        message: `No connection to ${place} could be made or kept.`,
        hint: hints.unreachable[provider],
      };
    case 'timeout':
      return { message: `${place} did not answer in time.`, hint: hints.timeout[provider] };
    case 'tls_error':
      return {
        message: `No secure connection to ${place}: its certificate or protocol is not accepted.`,
        hint: hints.tls[provider],
      };
    case 'not_s3':
    case 'not_implemented':
      return {
        message: `${place} answered, but not as S3 storage does.`,
        hint: withEndpointHint(hints.notS3[provider], destination),
      };
    case 'clock_skew':
      return {
        message: 'The clock of the storage and the clock of this service differ too much.',
        hint: hints.clock[provider],
      };
    case 'full':
      return {
        message: `The storage or its quota is full (${cause.shown}).`,
        hint: 'Delete unneeded objects, or raise the quota of the bucket or account. Runs are retried until then.',
      };
    case 'storage_unavailable':
      return {
        message: `The storage is not available at the moment (${cause.shown}).`,
        hint: hints.unavailable[provider],
      };
    case 'role_denied':
      return {
        message: `AWS does not let this service assume the role (${cause.shown}).`,
        hint: `The trust policy of the role must allow sts:AssumeRole for the AWS account of this service, with the condition {"StringEquals": {"sts:ExternalId": "${externalIdOf(context)}"}}.`,
      };
    case 'external_id_not_enforced':
      return {
        message:
          'The role can be assumed without the external id, so it is open to other customers.',
        hint: `Add the condition {"StringEquals": {"sts:ExternalId": "${externalIdOf(context)}"}} to the trust policy of the role.`,
      };
    case 'no_identity':
      return {
        message: `This service has no valid identity at AWS to assume the role with (${cause.shown}).`,
        hint: 'Ask the operator of this service. Runs are retried until then.',
      };
    case 'sts_unavailable':
      return {
        message: `AWS STS, which starts the session of the role, is not available (${cause.shown}).`,
        hint: 'This usually passes. If it does not, ask the operator of this service.',
      };
    case 'bucket_in_endpoint':
      return {
        message: `${place} is the address of a bucket, not of the storage: leave the bucket out of the endpoint.`,
        hint: `Give the storage's endpoint without a bucket in its host name; \`${bucket}\` belongs in \`bucket\` only.`,
      };
    case 'no_such_key':
    case 'unknown':
      return {
        message: `The storage refused with an unknown error: ${cause.shown} (region \`${region}\`).`,
        hint: "The storage's documentation explains its error codes.",
      };
  }
}

function externalIdOf({ access }: StorageContext): string {
  return access !== undefined && isRole(access)
    ? access.externalId
    : 'the externalId of your environment';
}

function placeOf({ provider, endpoint }: Destination): string {
  return endpoint ?? (provider === 'gcp' ? 'Google Cloud Storage' : 'Amazon S3');
}

/** Returns true for a temporary key. AWS STS and compatible storage give such keys this prefix. */
function isTemporaryKey(access: Access | undefined): boolean {
  return access !== undefined && !isRole(access) && access.accessKeyId.startsWith('ASIA');
}

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

function wrongRegion(
  rightRegion: string | null,
  { bucket, region, provider }: Destination,
): Wording {
  const where = provider === 'aws' ? ' in `bucketUrl`' : '';
  if (rightRegion !== null && rightRegion !== region) {
    return {
      message: `The bucket \`${bucket}\` is in \`${rightRegion}\`; change the region.`,
      hint: `Write \`${rightRegion}\`${where} instead of \`${region}\`.`,
    };
  }
  return {
    message: `The bucket \`${bucket}\` is not in \`${region}\`; change the region.`,
    hint: `The properties of the bucket show its region. Write it${where} instead of \`${region}\`.`,
  };
}

/** Rights that a step needs, in the words of S3. Google has its own words. */
const rights = {
  list: { s3: 's3:ListBucket on the bucket', gcp: 'storage.objects.list on the bucket' },
  write: {
    s3: 's3:PutObject on the objects',
    gcp: 'storage.objects.create and storage.objects.delete on the bucket',
  },
  abort: {
    s3: 's3:AbortMultipartUpload on the objects',
    gcp: 'storage.multipartUploads.abort on the bucket',
  },
  remove: {
    s3: 's3:DeleteObject on the objects under _manifest/',
    gcp: 'storage.objects.delete on the bucket',
  },
} as const;

function denied({ step, destination }: StorageContext): Wording {
  const { bucket, key, provider } = destination;
  const place = `the bucket \`${bucket}\`${key === '' ? '' : `, under \`${key}/\``}`;
  const who = provider === 'aws' ? 'The access key or role' : 'The access key';
  const right = (of: keyof typeof rights) => rights[of][provider === 'gcp' ? 'gcp' : 's3'];
  switch (step) {
    case 'list':
      return {
        message: `${who} may not list ${place}.`,
        hint: withEndpointHint(`Allow ListBucket (${right('list')}).`, destination),
      };
    case 'abort':
      return {
        message: `${who} may start uploads to ${place}, but not abort them.`,
        hint: `Allow AbortMultipartUpload (${right('abort')}), so that no unfinished upload stays.`,
      };
    case 'remove':
      return {
        message: `${who} may not delete the manifest of an object that is written again, in ${place}.`,
        hint: `Allow DeleteObject on manifests (${right('remove')}).`,
      };
    default:
      return {
        message: `${who} may not write to ${place}.`,
        hint: `Allow PutObject (${right('write')}). If the bucket has an encryption key, allow its use. If a policy demands encryption, set \`encryption\`.`,
      };
  }
}
