/** Finds the cause of an error of the S3 client by a table of the codes of providers. */
import { EndpointNotAllowedError } from '../../outbound/endpoint-guard.ts';
import { UnexpectedAnswerError } from '../../outbound/http-exchange.ts';
import { AssumeRoleError } from './roles.ts';

export interface Cause {
  readonly kind: CauseKind;
  /** Code of the provider or HTTP status, safe to show to callers. */
  readonly shown: string;
  /** Region that the storage named, for `wrong_region`. */
  readonly rightRegion: string | null;
}

/** `bucket_in_endpoint` is a list that was answered with `no_such_key`. */
export type CauseKind =
  | 'access_key_not_recognised'
  | 'temporary_key'
  | 'secret_key_mismatch'
  | 'bucket_not_found'
  | 'wrong_region'
  | 'denied'
  | 'suspended'
  | 'locked'
  | 'encryption_denied'
  | 'endpoint_not_allowed'
  | 'endpoint_unreachable'
  | 'timeout'
  | 'tls_error'
  | 'not_s3'
  | 'not_implemented'
  | 'role_denied'
  | 'external_id_not_enforced'
  | 'no_identity'
  | 'sts_unavailable'
  | 'no_such_key'
  | 'bucket_in_endpoint'
  | 'clock_skew'
  | 'full'
  | 'storage_unavailable'
  | 'unknown';

/** Error for a response with status 200 that is not a valid S3 response to the request. */
export class NotS3Error extends Error {
  override readonly name = 'NotS3Error';
}

/**
 * Causes by the `Code` of an S3 error document. Unlisted codes are `unknown`, or
 * `storage_unavailable` with a status of 5xx or 429.
 *
 * A comment names the providers that document the code. Only answers of RGW are recorded by tests.
 * - AWS: the list at `_Error` in @aws-sdk/client-s3. It lacks AccessForbidden, Busy,
 *   IncorrectEndpoint, InvalidClientTokenId, RequestLimitExceeded, Throttling, ThrottlingException
 *   and UnauthorizedAccess, which only the longer list on the web may have:
 *   https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
 * - GCS: https://cloud.google.com/storage/docs/xml-api/reference-status
 * - R2: https://developers.cloudflare.com/r2/api/error-codes/
 * - B2: no published list of codes. Its rows are codes of AWS, not verified at B2.
 * - Wasabi: https://docs.wasabi.com/docs/rest-api-introduction
 * - RGW: rgw_http_s3_errors in src/rgw/rgw_common.cc of ceph/ceph
 * - MinIO: errorCodes in cmd/api-errors.go of minio/minio
 *
 * Some codes stay `unknown` on purpose, so that runs are retried and the caller sees the code:
 * - bytes damaged in transit: BadDigest, InvalidDigest, XAmzContentSHA256Mismatch,
 *   XAmzContentChecksumMismatch, CrcMismatch
 * - an upload that was aborted meanwhile: NoSuchUpload, InvalidPart, InvalidPartOrder
 * - limits of the storage: EntityTooLarge, EntityTooSmall
 * - keys that the storage cannot have: KeyTooLongError, InvalidObjectName, XMinioParentIsObject,
 *   XMinioObjectExistsAsDirectory
 * - requests that this service should never send: InvalidArgument, InvalidRequest, MalformedXML,
 *   PreconditionFailed, InvalidStorageClass
 */
const codes: Readonly<Record<string, CauseKind>> = {
  InvalidAccessKeyId: 'access_key_not_recognised', // AWS, RGW, Wasabi, B2, MinIO
  InvalidSecurity: 'access_key_not_recognised', // AWS, GCS
  Unauthorized: 'access_key_not_recognised', // R2, with 401
  UnauthorizedAccess: 'access_key_not_recognised', // AWS in China
  AuthenticationRequired: 'access_key_not_recognised', // GCS
  InvalidClientTokenId: 'access_key_not_recognised', // AWS and Ceph STS
  NoSuchUser: 'access_key_not_recognised', // RGW

  InvalidToken: 'temporary_key', // AWS, MinIO: a temporary key without its session token
  InvalidTokenId: 'temporary_key', // MinIO
  ExpiredToken: 'temporary_key', // AWS, RGW
  TokenRefreshRequired: 'temporary_key', // AWS

  SignatureDoesNotMatch: 'secret_key_mismatch', // all

  NoSuchBucket: 'bucket_not_found', // all
  InvalidBucketName: 'bucket_not_found', // all: no bucket can have that name

  PermanentRedirect: 'wrong_region', // AWS; RGW in another zone group
  AuthorizationHeaderMalformed: 'wrong_region', // AWS, Wasabi, MinIO
  IncorrectEndpoint: 'wrong_region', // AWS
  IllegalLocationConstraint: 'wrong_region', // Swift
  IllegalLocationConstraintException: 'wrong_region', // AWS
  InvalidLocationConstraint: 'wrong_region', // AWS, GCS, RGW
  InvalidRegionName: 'wrong_region', // R2
  InvalidRegion: 'wrong_region', // MinIO

  AccessDenied: 'denied', // all
  AccessForbidden: 'denied', // AWS
  InvalidPayer: 'denied', // AWS
  UserProjectMissing: 'denied', // GCS: the bucket wants the requester to pay
  UserProjectAccessDenied: 'denied', // GCS
  CustomOrgPolicyConstraintFailed: 'denied', // GCS
  OrgPolicyConstraintFailed: 'denied', // GCS

  AccountProblem: 'suspended', // AWS, GCS, Wasabi
  AllAccessDisabled: 'suspended', // AWS, MinIO
  NotSignedUp: 'suspended', // AWS
  NotEntitled: 'suspended', // R2: not enabled for the account
  UserSuspended: 'suspended', // RGW
  UserProjectAccountProblem: 'suspended', // GCS: billing
  AccountDisabled: 'suspended', // GCS
  AccountNotActivated: 'suspended', // Wasabi
  AccessNotConfigured: 'suspended', // GCS: the API is not enabled

  ObjectLockedByBucketPolicy: 'locked', // R2
  ObjectUnderActiveHold: 'locked', // GCS
  RetentionPolicyNotMet: 'locked', // GCS
  ObjectLocked: 'locked', // MinIO

  InvalidEncryptionAlgorithmError: 'encryption_denied', // AWS, RGW, B2
  EncryptionNotAllowed: 'encryption_denied', // Wasabi
  CloudKmsBadKey: 'encryption_denied', // GCS
  CloudKmsCannotChangeKeyName: 'encryption_denied', // GCS
  CloudKmsDecryptionKeyNotFound: 'encryption_denied', // GCS
  CloudKmsDisabledKey: 'encryption_denied', // GCS
  CloudKmsEncryptionKeyNotFound: 'encryption_denied', // GCS
  CloudKmsKeyLocationNotAllowed: 'encryption_denied', // GCS

  RequestTimeTooSkewed: 'clock_skew', // all
  RequestExpired: 'clock_skew', // GCS
  ExpiredRequest: 'clock_skew', // R2

  RequestTimeout: 'timeout', // AWS and MinIO with 400, RGW with 408
  IncompleteBody: 'endpoint_unreachable', // all: the connection broke in the body
  ConnectionClosed: 'endpoint_unreachable', // Wasabi, with 410
  ClientDisconnect: 'endpoint_unreachable', // R2: the same

  MethodNotAllowed: 'not_s3', // S3 without uploads is not enough
  NotImplemented: 'not_implemented',
  NoSuchKey: 'no_such_key',

  QuotaExceeded: 'full', // RGW, Wasabi, Scaleway; with 403
  XMinioAdminBucketQuotaExceeded: 'full', // MinIO, with 400
  XMinioStorageFull: 'full', // MinIO, with 507
  LimitExceeded: 'full', // RGW, with 400

  SlowDown: 'storage_unavailable', // AWS, GCS, RGW, Wasabi, B2, MinIO
  SlowDownRead: 'storage_unavailable', // MinIO
  SlowDownWrite: 'storage_unavailable', // MinIO
  RequestLimitExceeded: 'storage_unavailable', // AWS
  TooManyRequests: 'storage_unavailable', // R2 and GCS, with 429
  RateLimitExceeded: 'storage_unavailable', // GCS, RGW
  RequestRateLimitExceeded: 'storage_unavailable', // Wasabi
  AuthenticationLockout: 'storage_unavailable', // Wasabi: for 5 minutes
  Throttling: 'storage_unavailable', // AWS
  ThrottlingException: 'storage_unavailable', // AWS KMS by way of S3
  Busy: 'storage_unavailable', // AWS, MinIO
  InternalError: 'storage_unavailable', // all
  ServiceUnavailable: 'storage_unavailable', // all
  TemporaryRedirect: 'storage_unavailable', // AWS: the bucket is minutes old
  OperationAborted: 'storage_unavailable', // AWS, GCS: the bucket is being made or deleted
  ConditionalRequestConflict: 'storage_unavailable', // AWS
  ConcurrentModification: 'storage_unavailable', // RGW
  XMinioServerNotInitialized: 'storage_unavailable', // MinIO
  XMinioBackendDown: 'storage_unavailable', // MinIO
};

/** Codes of the key service, such as `KMS.DisabledException`, which AWS and MinIO forward. */
const keyServiceRefusal = /^KMS\./;
/** Codes of the key service that pass without a change of the configuration. */
const keyServiceTrouble =
  /^KMS\.(?:Throttling|Internal|DependencyTimeout|LimitExceeded|KeyUnavailable)/;

/** Causes by Node's codes for failed connections. */
const networkCodes: Readonly<Record<string, CauseKind>> = {
  ENOTFOUND: 'endpoint_unreachable',
  EAI_AGAIN: 'endpoint_unreachable',
  ECONNREFUSED: 'endpoint_unreachable',
  ECONNRESET: 'endpoint_unreachable',
  ECONNABORTED: 'endpoint_unreachable',
  EHOSTUNREACH: 'endpoint_unreachable',
  EHOSTDOWN: 'endpoint_unreachable',
  ENETUNREACH: 'endpoint_unreachable',
  ENETDOWN: 'endpoint_unreachable',
  EADDRNOTAVAIL: 'endpoint_unreachable',
  EPIPE: 'endpoint_unreachable',
  ERR_STREAM_PREMATURE_CLOSE: 'endpoint_unreachable',
  ETIMEDOUT: 'timeout',
  EPROTO: 'tls_error',
  HOSTNAME_MISMATCH: 'tls_error',
  INVALID_CA: 'tls_error',
  PATH_LENGTH_EXCEEDED: 'tls_error',
  INVALID_PURPOSE: 'tls_error',
};

/** Codes of OpenSSL for certificates, of Node for TLS, and of Node's HTTP parser. */
const networkFamilies: readonly (readonly [RegExp, CauseKind])[] = [
  [
    /^(?:CERT_|CRL_|UNABLE_TO_|ERR_TLS_|ERR_SSL_|ERROR_IN_CERT_|ERROR_IN_CRL_)|SELF_SIGNED_CERT/,
    'tls_error',
  ],
  [/^HPE_/, 'not_s3'],
];

/** Members of errors of the SDK and of Node. Each may be missing or have any type. */
interface Thrown {
  readonly name?: unknown;
  readonly code?: unknown;
  readonly Code?: unknown;
  readonly Region?: unknown;
  readonly Endpoint?: unknown;
  readonly $metadata?: { readonly httpStatusCode?: unknown };
  readonly $response?: { readonly headers?: Readonly<Record<string, unknown>> };
}

/**
 * Finds the cause of an error of the S3 client.
 * @param error any thrown value
 */
export function causeOf(error: unknown): Cause {
  if (error instanceof AssumeRoleError) return causeOfRefusedRole(causeOf(error.cause));
  const thrown: Thrown = typeof error === 'object' && error !== null ? error : {};
  const status = statusOf(thrown);
  const code = typeof thrown.Code === 'string' ? thrown.Code : null;
  const kind = kindOf(error, thrown, code, status);
  return {
    kind,
    shown: code !== null && codeShape.test(code) ? code : status > 0 ? `HTTP ${status}` : noCode,
    rightRegion: kind === 'wrong_region' ? rightRegion(thrown) : null,
  };
}

/**
 * Finds the cause of a failed AssumeRole. Errors of the operator's identity and of STS end without
 * a change of the config.
 */
function causeOfRefusedRole(cause: Cause): Cause {
  switch (cause.kind) {
    case 'denied':
      return { ...cause, kind: 'role_denied' };
    case 'access_key_not_recognised':
    case 'temporary_key':
    case 'secret_key_mismatch':
      return { ...cause, kind: 'no_identity' };
    case 'unknown':
      // The SDK finds no identity before it sends a request, so there is no answer with a code.
      return { ...cause, kind: cause.shown === noCode ? 'no_identity' : 'role_denied' };
    default:
      return { ...cause, kind: 'sts_unavailable' };
  }
}

const noCode = 'no code';

/** Form of a code. Storage may send any text, and only codes of this form are shown. */
const codeShape = /^[A-Za-z][A-Za-z0-9._-]{0,63}$/;

function kindOf(error: unknown, thrown: Thrown, code: string | null, status: number): CauseKind {
  if (error instanceof EndpointNotAllowedError) return 'endpoint_not_allowed';
  if (error instanceof NotS3Error || error instanceof UnexpectedAnswerError) return 'not_s3';
  if (code !== null) return kindOfCode(code, status);
  const network = typeof thrown.code === 'string' ? kindOfNetworkCode(thrown.code) : null;
  if (network !== null) return network;
  // Time limits of this service abort requests, those of the SDK throw.
  if (thrown.name === 'TimeoutError' || thrown.name === 'AbortError') return 'timeout';
  return kindOfStatus(thrown, status);
}

function kindOfCode(code: string, status: number): CauseKind {
  const known = Object.hasOwn(codes, code) ? codes[code] : undefined;
  if (known !== undefined) return known;
  if (status >= 500 || status === 429 || keyServiceTrouble.test(code)) return 'storage_unavailable';
  return keyServiceRefusal.test(code) ? 'encryption_denied' : 'unknown';
}

function kindOfNetworkCode(code: string): CauseKind | null {
  const family = networkFamilies.find(([shape]) => shape.test(code));
  return networkCodes[code] ?? family?.[1] ?? null;
}

/**
 * Finds the cause of a response without an S3 error document, such as that of a proxy or web
 * server.
 */
function kindOfStatus(thrown: Thrown, status: number): CauseKind {
  if (status === 0) return 'unknown';
  // S3 answers HEAD and some redirects without a document but with this header.
  const hasRegion = header(thrown, 'x-amz-bucket-region') !== undefined;
  if (status >= 300 && status < 500 && hasRegion) return 'wrong_region';
  if (status === 501 || status === 505) return 'not_s3';
  return status >= 500 || status === 429 ? 'storage_unavailable' : 'not_s3';
}

function statusOf(thrown: Thrown): number {
  const status = thrown.$metadata?.httpStatusCode;
  return typeof status === 'number' ? status : 0;
}

function header(thrown: Thrown, name: string): unknown {
  return thrown.$response?.headers?.[name];
}

function rightRegion(thrown: Thrown): string | null {
  const [, fromEndpoint] =
    typeof thrown.Endpoint === 'string'
      ? (/\bs3[.-]([a-z0-9-]+)\.amazonaws\.com/.exec(thrown.Endpoint) ?? [])
      : [];
  const named = [header(thrown, 'x-amz-bucket-region'), thrown.Region, fromEndpoint];
  return (
    (named.find(region => typeof region === 'string' && /^[A-Za-z0-9-]{1,63}$/.test(region)) as
      | string
      | undefined) ?? null
  );
}
