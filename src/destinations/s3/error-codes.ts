/** From what the S3 client throws to a cause. Pure; the table of provider codes is here. */

import { EndpointNotAllowedError } from '../../outbound/endpoint-guard.ts';

export type Cause =
  | { readonly kind: Plain }
  | { readonly kind: 'wrong_region'; readonly rightRegion: string | null }
  /** `shown`: the provider's code or the status, safe to show. */
  | { readonly kind: 'storage_unavailable' | 'unknown'; readonly shown: string };

type Plain =
  | 'access_key_not_recognised'
  | 'secret_key_mismatch'
  | 'bucket_not_found'
  | 'denied'
  | 'suspended'
  | 'endpoint_not_allowed'
  | 'endpoint_unreachable'
  | 'timeout'
  | 'tls_error'
  | 'not_s3'
  | 'clock_skew';

/** An answer to a request for which S3 has but one meaning, and that was not it. */
export class NotS3Error extends Error {
  override readonly name = 'NotS3Error';
}

/** Codes of answers. A provider's name behind a row: it is the only one, or the first, that was seen to say so. */
const codes: Readonly<Record<string, Plain | 'wrong_region' | 'storage_unavailable'>> = {
  InvalidAccessKeyId: 'access_key_not_recognised', // AWS, RGW, Swift, MinIO
  Unauthorized: 'access_key_not_recognised', // R2, with 401
  InvalidSecurity: 'access_key_not_recognised', // GCS
  InvalidToken: 'access_key_not_recognised', // AWS: temporary keys without their token
  ExpiredToken: 'access_key_not_recognised', // AWS
  TokenRefreshRequired: 'access_key_not_recognised', // AWS
  SignatureDoesNotMatch: 'secret_key_mismatch', // all
  NoSuchBucket: 'bucket_not_found', // all
  PermanentRedirect: 'wrong_region', // AWS, RGW in another zone group
  AuthorizationHeaderMalformed: 'wrong_region', // AWS, Swift, MinIO
  IllegalLocationConstraint: 'wrong_region', // Swift
  IllegalLocationConstraintException: 'wrong_region', // AWS
  InvalidRegionName: 'wrong_region', // R2
  InvalidRegion: 'wrong_region', // MinIO
  AccessDenied: 'denied', // all
  AccountProblem: 'suspended', // AWS
  AllAccessDisabled: 'suspended', // AWS
  NotSignedUp: 'suspended', // AWS
  UserSuspended: 'suspended', // RGW
  UserProjectAccountProblem: 'suspended', // GCS: billing
  AccountDisabled: 'suspended', // GCS
  RequestTimeTooSkewed: 'clock_skew', // all
  RequestExpired: 'clock_skew', // GCS
  RequestTimeout: 'timeout', // AWS: a 400
  MethodNotAllowed: 'not_s3', // S3 without uploads is not what is needed
  NotImplemented: 'not_s3',
  SlowDown: 'storage_unavailable', // AWS, RGW, MinIO
  SlowDownRead: 'storage_unavailable', // MinIO
  SlowDownWrite: 'storage_unavailable', // MinIO
  RequestLimitExceeded: 'storage_unavailable',
  TooManyRequests: 'storage_unavailable', // R2, with 429
  Throttling: 'storage_unavailable',
  InternalError: 'storage_unavailable',
  ServiceUnavailable: 'storage_unavailable',
  TemporaryRedirect: 'storage_unavailable', // AWS: a bucket of minutes ago
  OperationAborted: 'storage_unavailable', // AWS: a bucket being made or deleted
  XMinioServerNotInitialized: 'storage_unavailable', // MinIO
  XMinioStorageFull: 'storage_unavailable', // MinIO, with 507
};

/** Node's codes for connections that could not be made or kept. */
const networkCodes: Readonly<Record<string, Plain>> = {
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

/** OpenSSL's verdicts on certificates and Node's on protocols; and the parser's on what is no HTTP. */
const networkFamilies: readonly (readonly [RegExp, Plain])[] = [
  [
    /^(?:CERT_|CRL_|UNABLE_TO_|ERR_TLS_|ERR_SSL_|ERROR_IN_CERT_|ERROR_IN_CRL_)|SELF_SIGNED_CERT/,
    'tls_error',
  ],
  [/^HPE_/, 'not_s3'],
];

/** The members that errors of the SDK, of Node and of ours have; each may be missing or of any type. */
interface Thrown {
  readonly name?: unknown;
  readonly code?: unknown;
  readonly Code?: unknown;
  readonly Region?: unknown;
  readonly Endpoint?: unknown;
  readonly $metadata?: { readonly httpStatusCode?: unknown };
  readonly $response?: { readonly headers?: Readonly<Record<string, unknown>> };
}

export function causeOf(error: unknown): Cause {
  if (error instanceof EndpointNotAllowedError) return { kind: 'endpoint_not_allowed' };
  if (error instanceof NotS3Error) return { kind: 'not_s3' };
  if (typeof error !== 'object' || error === null) return { kind: 'unknown', shown: 'no code' };
  const thrown: Thrown = error;
  if (typeof thrown.Code === 'string') return causeOfCode(thrown.Code, thrown);
  if (typeof thrown.code === 'string') {
    const known =
      networkCodes[thrown.code] ??
      networkFamilies.find(([shape]) => shape.test(String(thrown.code)))?.[1];
    if (known !== undefined) return { kind: known };
  }
  // Both of time limits: ours abort requests, the SDK's throw.
  if (thrown.name === 'TimeoutError' || thrown.name === 'AbortError') return { kind: 'timeout' };
  return causeOfStatus(thrown);
}

function causeOfCode(code: string, thrown: Thrown): Cause {
  const kind = Object.hasOwn(codes, code) ? codes[code] : undefined;
  if (kind === 'wrong_region') return { kind, rightRegion: rightRegion(thrown) };
  if (kind === 'storage_unavailable') return { kind, shown: shown(code, thrown) };
  if (kind !== undefined) return { kind };
  const status = statusOf(thrown);
  return {
    kind: status >= 500 || status === 429 ? 'storage_unavailable' : 'unknown',
    shown: shown(code, thrown),
  };
}

/** An answer without S3's error document: a proxy's, a web server's, or a broken one. */
function causeOfStatus(thrown: Thrown): Cause {
  const status = statusOf(thrown);
  // S3 answers HEAD and some redirects without a document; the header is S3's own all the same.
  if (status >= 300 && status < 500 && header(thrown, 'x-amz-bucket-region') !== undefined) {
    return { kind: 'wrong_region', rightRegion: rightRegion(thrown) };
  }
  if (status === 501 || status === 505) return { kind: 'not_s3' };
  if (status >= 500 || status === 429)
    return { kind: 'storage_unavailable', shown: `HTTP ${status}` };
  return status === 0 ? { kind: 'unknown', shown: 'no code' } : { kind: 'not_s3' };
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

/** A code may hold anything that the other side likes to send, so only what looks like one is repeated. */
function shown(code: string, thrown: Thrown): string {
  return /^[A-Za-z][A-Za-z0-9._-]{0,63}$/.test(code) ? code : `HTTP ${statusOf(thrown)}`;
}
