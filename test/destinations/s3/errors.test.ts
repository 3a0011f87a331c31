import { ListObjectsV2Command } from '@aws-sdk/client-s3';
import t from 'tap';
import type { Destination } from '../../../src/destinations/destination.ts';
import { checkTimeouts, createS3Client } from '../../../src/destinations/s3/client.ts';
import { NotS3Error } from '../../../src/destinations/s3/error-codes.ts';
import {
  describeStorageError,
  isTransient,
  type StorageErrorCode,
} from '../../../src/destinations/s3/errors.ts';
import type { StorageStep } from '../../../src/destinations/s3/hints.ts';
import { AssumeRoleError } from '../../../src/destinations/s3/roles.ts';
import { parseEndpointAllowlist } from '../../../src/outbound/endpoint-allowlist.ts';
import { EndpointNotAllowedError } from '../../../src/outbound/endpoint-guard.ts';
import { errorDocument, fakeEndpoint } from './fake-endpoint.ts';
import { storageErrorCodes } from './storage-error-codes.ts';

const aws: Destination = {
  provider: 'aws',
  bucket: 'acme',
  region: 'us-east-1',
  key: 'exports',
  endpoint: null,
};
const gcp: Destination = { ...aws, provider: 'gcp' };
const r2: Destination = {
  ...aws,
  provider: 'custom',
  endpoint: 'https://abc.r2.cloudflarestorage.com',
};

interface Row {
  readonly provider: string;
  readonly status: number;
  readonly body: string;
  readonly headers?: Record<string, string>;
  readonly step?: StorageStep;
  readonly code: StorageErrorCode;
  readonly message?: RegExp;
  readonly hint?: RegExp;
}

/**
 * Answers as the providers give them. The tests send them over a real connection to the real
 * client.
 */
const answers: Row[] = [
  {
    provider: 'AWS',
    status: 403,
    body: errorDocument('InvalidAccessKeyId'),
    code: 'access_key_not_recognised',
  },
  {
    provider: 'RGW',
    status: 403,
    body: '<?xml version="1.0"?><Error><Code>InvalidAccessKeyId</Code><RequestId>tx1</RequestId></Error>',
    code: 'access_key_not_recognised',
  },
  {
    provider: 'R2',
    status: 401,
    body: errorDocument('Unauthorized'),
    code: 'access_key_not_recognised',
  },
  {
    provider: 'GCS',
    status: 403,
    body: errorDocument('InvalidSecurity'),
    code: 'access_key_not_recognised',
  },
  {
    provider: 'AWS',
    status: 400,
    body: errorDocument('ExpiredToken'),
    code: 'access_key_not_recognised',
  },
  {
    provider: 'AWS',
    status: 403,
    body: errorDocument('SignatureDoesNotMatch'),
    code: 'secret_key_mismatch',
  },
  {
    provider: 'Swift',
    status: 403,
    body: errorDocument('SignatureDoesNotMatch'),
    code: 'secret_key_mismatch',
  },
  {
    provider: 'AWS',
    status: 404,
    body: errorDocument('NoSuchBucket'),
    code: 'bucket_not_found',
    message: /`acme`/,
  },
  {
    provider: 'AWS',
    status: 301,
    body: errorDocument(
      'PermanentRedirect',
      '<Endpoint>acme.s3.eu-west-1.amazonaws.com</Endpoint>',
    ),
    code: 'wrong_region',
    message: /`acme` is in `eu-west-1`; change the region/,
  },
  {
    provider: 'AWS, legacy endpoint',
    status: 301,
    body: errorDocument(
      'PermanentRedirect',
      '<Endpoint>acme.s3-eu-central-1.amazonaws.com</Endpoint>',
    ),
    code: 'wrong_region',
    message: /`eu-central-1`/,
  },
  {
    provider: 'AWS, header',
    status: 301,
    body: errorDocument('PermanentRedirect'),
    headers: { 'x-amz-bucket-region': 'eu-west-3' },
    code: 'wrong_region',
    message: /`eu-west-3`/,
  },
  {
    provider: 'AWS, header only',
    status: 301,
    body: '',
    headers: { 'x-amz-bucket-region': 'eu-west-3' },
    code: 'wrong_region',
    message: /`eu-west-3`/,
  },
  {
    provider: 'AWS',
    status: 400,
    body: errorDocument('AuthorizationHeaderMalformed', '<Region>ap-south-1</Region>'),
    code: 'wrong_region',
    message: /`ap-south-1`/,
  },
  {
    provider: 'MinIO',
    status: 400,
    body: errorDocument('AuthorizationHeaderMalformed'),
    code: 'wrong_region',
    message: /not in `us-east-1`/,
  },
  {
    provider: 'hostile',
    status: 400,
    body: errorDocument('AuthorizationHeaderMalformed', '<Region>visit evil.example</Region>'),
    code: 'wrong_region',
    message: /not in `us-east-1`/,
  },
  {
    provider: 'RGW',
    status: 301,
    body: errorDocument('PermanentRedirect', '<Endpoint>10.0.0.7</Endpoint>'),
    code: 'wrong_region',
    message: /not in `us-east-1`/,
  },
  {
    provider: 'AWS',
    status: 400,
    body: errorDocument('IllegalLocationConstraintException'),
    code: 'wrong_region',
  },
  {
    provider: 'Swift',
    status: 400,
    body: errorDocument('IllegalLocationConstraint'),
    code: 'wrong_region',
  },
  { provider: 'R2', status: 400, body: errorDocument('InvalidRegionName'), code: 'wrong_region' },
  {
    provider: 'all',
    status: 403,
    body: errorDocument('AccessDenied'),
    step: 'list',
    code: 'list_denied',
    hint: /ListBucket/,
  },
  {
    provider: 'all',
    status: 403,
    body: errorDocument('AccessDenied'),
    step: 'write',
    code: 'write_denied',
    hint: /PutObject/,
  },
  {
    provider: 'all',
    status: 403,
    body: errorDocument('AccessDenied'),
    step: 'upload',
    code: 'write_denied',
    hint: /PutObject/,
  },
  {
    provider: 'all',
    status: 403,
    body: errorDocument('AccessDenied'),
    step: 'abort',
    code: 'write_denied',
    hint: /AbortMultipartUpload/,
  },
  {
    provider: 'RGW',
    status: 403,
    body: errorDocument('UserSuspended'),
    step: 'write',
    code: 'write_denied',
    message: /suspended/,
  },
  {
    provider: 'AWS',
    status: 403,
    body: errorDocument('AllAccessDisabled'),
    step: 'list',
    code: 'list_denied',
    message: /suspended/,
  },
  { provider: 'AWS', status: 403, body: errorDocument('RequestTimeTooSkewed'), code: 'clock_skew' },
  { provider: 'AWS', status: 400, body: errorDocument('RequestTimeout'), code: 'timeout' },
  {
    provider: 'AWS',
    status: 503,
    body: errorDocument('SlowDown'),
    code: 'storage_unavailable',
    message: /SlowDown/,
  },
  {
    provider: 'MinIO',
    status: 503,
    body: errorDocument('SlowDownWrite'),
    code: 'storage_unavailable',
  },
  {
    provider: 'MinIO',
    status: 507,
    body: errorDocument('XMinioStorageFull'),
    code: 'storage_unavailable',
    message: /XMinioStorageFull/,
  },
  {
    provider: 'AWS',
    status: 500,
    body: errorDocument('InternalError'),
    code: 'storage_unavailable',
  },
  {
    provider: 'R2',
    status: 429,
    body: errorDocument('TooManyRequests'),
    code: 'storage_unavailable',
  },
  {
    provider: 'AWS',
    status: 307,
    body: errorDocument('TemporaryRedirect'),
    code: 'storage_unavailable',
  },
  {
    provider: 'any provider, unknown code',
    status: 502,
    body: errorDocument('SomethingNew'),
    code: 'storage_unavailable',
    message: /SomethingNew/,
  },
  {
    provider: 'a proxy',
    status: 502,
    body: '<html><body>Bad gateway</body></html>',
    code: 'storage_unavailable',
    message: /HTTP 502/,
  },
  { provider: 'a proxy', status: 503, body: '', code: 'storage_unavailable', message: /HTTP 503/ },
  {
    provider: 'a proxy',
    status: 500,
    body: 'boom',
    code: 'storage_unavailable',
    message: /HTTP 500/,
  },
  ...['<!doctype html><h1>Bad gateway</h1>', '<p/>'.repeat(500), 'x'.repeat(100_000)].flatMap(
    body =>
      [429, 503].map(status => ({
        provider: 'a proxy with a refused body',
        status,
        body,
        code: 'storage_unavailable' as const,
        message: new RegExp(`HTTP ${status}`),
      })),
  ),
  { provider: 'a web server', status: 200, body: '<!doctype html><p>hello<br>', code: 'not_s3' },
  { provider: 'a web server', status: 200, body: '{"hello": 1}', code: 'not_s3' },
  {
    provider: 'a web server',
    status: 302,
    body: '',
    headers: { location: 'http://127.0.0.1:1/login' },
    code: 'not_s3',
  },
  { provider: 'a web server', status: 403, body: '<!doctype html><p>no<br>', code: 'not_s3' },
  { provider: 'a web server', status: 404, body: '<html>not found</html>', code: 'not_s3' },
  { provider: 'a web server', status: 401, body: '', code: 'not_s3' },
  {
    provider: 'a web server',
    status: 501,
    body: '<html>Unsupported method</html>',
    code: 'not_s3',
  },
  {
    provider: 'an incomplete S3',
    status: 501,
    body: errorDocument('NotImplemented'),
    code: 'not_s3',
  },
  {
    provider: 'an incomplete S3',
    status: 405,
    body: errorDocument('MethodNotAllowed'),
    code: 'not_s3',
  },
  {
    provider: 'AWS',
    status: 400,
    body: errorDocument('InvalidRequest'),
    code: 'unknown',
    message: /InvalidRequest/,
  },
  {
    provider: 'AWS',
    status: 404,
    body: errorDocument('NoSuchUpload'),
    step: 'upload',
    code: 'unknown',
    message: /NoSuchUpload/,
  },
  {
    provider: 'AWS',
    status: 400,
    body: errorDocument('KMS.DisabledException'),
    code: 'encryption_denied',
    message: /KMS\.DisabledException/,
  },
  {
    provider: 'hostile',
    status: 400,
    body: errorDocument('constructor'),
    code: 'unknown',
    message: /constructor/,
  },
  {
    provider: 'hostile',
    status: 400,
    body: errorDocument('visit http://evil.example'),
    code: 'unknown',
    message: /HTTP 400/,
  },
];

t.test('maps the answers of each provider to storage errors', async t => {
  let row: Row | undefined;
  const endpoint = await fakeEndpoint((_, response) => {
    response.writeHead(row?.status ?? 0, { 'content-type': 'application/xml', ...row?.headers });
    response.end(row?.body);
  });
  const { destination } = endpoint;
  const credentials = { accessKeyId: 'AKIATEST', secretAccessKey: 'not-a-real-secret' };
  const allowlist = parseEndpointAllowlist(['127.0.0.1']);
  const client = createS3Client(destination, credentials, { allowlist }, checkTimeouts);
  t.teardown(async () => {
    client.destroy();
    await endpoint.close();
  });
  for (row of answers) {
    const title = `${row.provider}: ${row.status} ${row.code}`;
    const thrown = await client.send(new ListObjectsV2Command({ Bucket: 'acme' })).then(
      () => new NotS3Error(),
      (error: unknown) => error,
    );
    const fault = describeStorageError(thrown, { step: row.step ?? 'list', destination });
    t.equal(fault.code, row.code, title);
    t.match(fault.message, row.message ?? /./, title);
    t.match(fault.hint, row.hint ?? /./, title);
    t.notMatch(
      JSON.stringify(fault),
      /internal-host|evil|not-a-real|10\.0\.0\.7|node_modules/,
      title,
    );
  }
  t.equal(
    endpoint.requests.length,
    answers.length,
    'redirects are not followed and requests not repeated',
  );
});

/** Error codes from the published lists of each provider, with their HTTP status. */
const published: Record<StorageErrorCode, [string, number][]> = {
  access_key_not_recognised: [
    ['InvalidAccessKeyId', 403],
    ['InvalidSecurity', 403],
    ['Unauthorized', 401],
    ['UnauthorizedAccess', 403],
    ['AuthenticationRequired', 401],
    ['InvalidClientTokenId', 403],
    ['NoSuchUser', 404],
    ['InvalidToken', 400],
    ['InvalidTokenId', 403],
    ['ExpiredToken', 400],
    ['TokenRefreshRequired', 400],
  ],
  secret_key_mismatch: [['SignatureDoesNotMatch', 403]],
  role_denied: [],
  external_id_not_enforced: [],
  bucket_not_found: [
    ['NoSuchBucket', 404],
    ['InvalidBucketName', 400],
  ],
  wrong_region: [
    ['PermanentRedirect', 301],
    ['AuthorizationHeaderMalformed', 400],
    ['IncorrectEndpoint', 400],
    ['IllegalLocationConstraint', 400],
    ['IllegalLocationConstraintException', 400],
    ['InvalidLocationConstraint', 400],
    ['InvalidRegionName', 400],
    ['InvalidRegion', 400],
  ],
  list_denied: [],
  write_denied: [
    ['AccessDenied', 403],
    ['AccessForbidden', 403],
    ['InvalidPayer', 403],
    ['UserProjectMissing', 400],
    ['UserProjectAccessDenied', 403],
    ['CustomOrgPolicyConstraintFailed', 412],
    ['OrgPolicyConstraintFailed', 412],
    ['AccountProblem', 403],
    ['AllAccessDisabled', 403],
    ['NotSignedUp', 403],
    ['NotEntitled', 403],
    ['UserSuspended', 403],
    ['UserProjectAccountProblem', 403],
    ['AccountDisabled', 403],
    ['AccountNotActivated', 403],
    ['AccessNotConfigured', 403],
    ['ObjectLockedByBucketPolicy', 403],
    ['ObjectUnderActiveHold', 403],
    ['RetentionPolicyNotMet', 403],
    ['ObjectLocked', 400],
  ],
  encryption_denied: [
    ['InvalidEncryptionAlgorithmError', 400],
    ['EncryptionNotAllowed', 400],
    ['KMS.DisabledException', 400],
    ['KMS.NotFoundException', 400],
    ['KMS.InvalidStateException', 400],
    ['KMS.InvalidKeyUsageException', 400],
    ['CloudKmsBadKey', 400],
    ['CloudKmsCannotChangeKeyName', 400],
    ['CloudKmsDecryptionKeyNotFound', 400],
    ['CloudKmsDisabledKey', 400],
    ['CloudKmsEncryptionKeyNotFound', 400],
    ['CloudKmsKeyLocationNotAllowed', 400],
  ],
  endpoint_not_allowed: [],
  endpoint_unreachable: [
    ['IncompleteBody', 400],
    ['ClientDisconnect', 400],
    ['ConnectionClosed', 410],
  ],
  timeout: [
    ['RequestTimeout', 400],
    ['RequestTimeout', 408],
  ],
  tls_error: [],
  not_s3: [
    ['MethodNotAllowed', 405],
    ['NotImplemented', 501],
  ],
  clock_skew: [
    ['RequestTimeTooSkewed', 403],
    ['RequestExpired', 400],
    ['ExpiredRequest', 400],
  ],
  storage_unavailable: [
    ['QuotaExceeded', 403],
    ['XMinioAdminBucketQuotaExceeded', 400],
    ['XMinioStorageFull', 507],
    ['LimitExceeded', 400],
    ['SlowDown', 503],
    ['SlowDown', 429],
    ['SlowDownRead', 503],
    ['SlowDownWrite', 503],
    ['RequestLimitExceeded', 400],
    ['TooManyRequests', 429],
    ['RateLimitExceeded', 403],
    ['RequestRateLimitExceeded', 403],
    ['AuthenticationLockout', 403],
    ['Throttling', 400],
    ['ThrottlingException', 400],
    ['KMS.ThrottlingException', 400],
    ['KMS.InternalException', 400],
    ['KMS.KeyUnavailableException', 400],
    ['Busy', 503],
    ['InternalError', 500],
    ['ServiceUnavailable', 503],
    ['TemporaryRedirect', 307],
    ['OperationAborted', 409],
    ['ConditionalRequestConflict', 409],
    ['ConcurrentModification', 409],
    ['XMinioServerNotInitialized', 503],
    ['XMinioBackendDown', 503],
  ],
  unknown: [
    ['BadDigest', 400],
    ['InvalidDigest', 400],
    ['XAmzContentSHA256Mismatch', 400],
    ['XAmzContentChecksumMismatch', 400],
    ['CrcMismatch', 400],
    ['NoSuchKey', 404],
    ['NoSuchUpload', 404],
    ['InvalidPart', 400],
    ['InvalidPartOrder', 400],
    ['EntityTooLarge', 400],
    ['EntityTooSmall', 400],
    ['KeyTooLongError', 400],
    ['InvalidObjectName', 400],
    ['XMinioParentIsObject', 400],
    ['InvalidArgument', 400],
    ['InvalidRequest', 400],
    ['MalformedXML', 400],
    ['PreconditionFailed', 412],
    ['InvalidStorageClass', 400],
  ],
};

t.test('maps every published code explicitly', async t => {
  for (const [expected, rows] of Object.entries(published)) {
    for (const [code, status] of rows) {
      const error = Object.assign(new Error(), {
        Code: code,
        $metadata: { httpStatusCode: status },
      });
      const fault = describeStorageError(error, { step: 'upload', destination: r2 });
      t.equal(fault.code, expected, `${status} ${code}`);
      if (expected === 'unknown') t.match(fault.message, code);
    }
  }
});

t.test('maps errors of AssumeRole to the operator or the customer', async t => {
  const answer = (Code: string, httpStatusCode: number) => ({
    Code,
    $metadata: { httpStatusCode },
  });
  const rows: [unknown, StorageErrorCode, RegExp][] = [
    [answer('AccessDenied', 403), 'role_denied', /assume the role/],
    [answer('RegionDisabledException', 403), 'role_denied', /RegionDisabledException/],
    [answer('ValidationError', 400), 'role_denied', /ValidationError/],
    [answer('InvalidClientTokenId', 403), 'storage_unavailable', /no valid identity/],
    [answer('SignatureDoesNotMatch', 403), 'storage_unavailable', /no valid identity/],
    [answer('ExpiredToken', 403), 'storage_unavailable', /no valid identity/],
    [new Error('Could not load credentials'), 'storage_unavailable', /no valid identity/],
    [answer('Throttling', 400), 'storage_unavailable', /AWS STS.*Throttling/],
    [answer('InternalFailure', 500), 'storage_unavailable', /AWS STS/],
    [{ code: 'ECONNREFUSED' }, 'storage_unavailable', /AWS STS/],
  ];
  const access = { roleArn: 'arn:aws:iam::123456789012:role/exports', externalId: 'id-of-acme' };
  for (const [cause, code, message] of rows) {
    for (const step of ['list', 'upload'] as const) {
      const context = { step, destination: aws, access };
      const fault = describeStorageError(new AssumeRoleError(cause), context);
      t.equal(fault.code, code);
      t.match(fault.message, message);
      if (code === 'role_denied') t.match(fault.hint, /"sts:ExternalId": "id-of-acme"/);
    }
  }
});

t.test('reports a full storage as full', async t => {
  const error = { Code: 'QuotaExceeded', $metadata: { httpStatusCode: 403 } };
  const fault = describeStorageError(error, { step: 'upload', destination: r2 });
  t.match(fault.message, /quota is full \(QuotaExceeded\)/);
  t.match(fault.hint, /raise the quota/);
});

t.test('reports that temporary keys need a session token', async t => {
  const withKey = (Code: string, accessKeyId: string) =>
    describeStorageError(
      { Code },
      { step: 'list', destination: aws, access: { accessKeyId, secretAccessKey: 's' } },
    ).hint;
  const wanted = /expires and needs a session token, which is not supported/;
  t.match(withKey('InvalidAccessKeyId', 'ASIAIOSFODNN7EXAMPLE'), wanted);
  t.match(withKey('InvalidToken', 'AKIAIOSFODNN7EXAMPLE'), wanted);
  t.match(withKey('ExpiredToken', 'AKIAIOSFODNN7EXAMPLE'), wanted);
  t.match(withKey('InvalidAccessKeyId', 'AKIAIOSFODNN7EXAMPLE'), /Copy the access key id again/);
});

t.test('gives Amazon and Google users no hint about hosts, ports or endpoints', async t => {
  const errors = [
    ...Object.values(published).flatMap(rows =>
      rows.map(([Code, httpStatusCode]) => ({ Code, $metadata: { httpStatusCode } })),
    ),
    { code: 'ENOTFOUND' },
    { code: 'ETIMEDOUT' },
    { code: 'CERT_HAS_EXPIRED' },
    { code: 'HPE_INVALID_CONSTANT' },
    new NotS3Error(),
  ];
  for (const [destination, foreign] of [
    [aws, /\b(host|port|endpoint|firewall|Google|storage\.objects|HMAC)\b/i],
    [gcp, /\b(host|port|endpoint|firewall|Amazon|s3:|IAM|bucketUrl|AWS)\b/i],
    [r2, /\b(bucketUrl|Google|HMAC|AWS|Amazon)\b/],
  ] as const) {
    for (const error of errors) {
      for (const step of ['list', 'write', 'abort', 'upload'] as const) {
        const { message, hint } = describeStorageError(error, { step, destination });
        t.notMatch(`${message} ${hint}`, foreign, JSON.stringify(error));
      }
    }
  }
});

t.test('suggests to leave the bucket out of the endpoint when the host may contain it', async t => {
  const wanted = /leave the bucket out of the endpoint/;
  const inHost = { ...r2, endpoint: 'https://acme.fra1.example.com' };
  const describe = (error: unknown, destination: Destination, step: StorageStep = 'list') => {
    const { message, hint } = describeStorageError(error, { step, destination });
    return `${message} ${hint}`;
  };
  // A list reads no object. `NoSuchKey` therefore means that the host itself names a bucket.
  t.match(describe({ Code: 'NoSuchKey' }, inHost), wanted);
  t.match(describe({ Code: 'NoSuchKey' }, r2), wanted, 'a host that serves a single bucket');
  t.notMatch(describe({ Code: 'NoSuchKey' }, r2, 'upload'), wanted);
  for (const error of [new NotS3Error(), { Code: 'AccessDenied' }, { Code: 'NoSuchBucket' }]) {
    t.match(describe(error, inHost), wanted);
    t.notMatch(describe(error, r2), wanted);
  }
});

t.test('maps connection errors by the code of Node', async t => {
  const rows: Record<string, StorageErrorCode> = {
    ENOTFOUND: 'endpoint_unreachable',
    EAI_AGAIN: 'endpoint_unreachable',
    ECONNREFUSED: 'endpoint_unreachable',
    ECONNRESET: 'endpoint_unreachable',
    EPIPE: 'endpoint_unreachable',
    EHOSTUNREACH: 'endpoint_unreachable',
    ENETUNREACH: 'endpoint_unreachable',
    ETIMEDOUT: 'timeout',
    EPROTO: 'tls_error',
    CERT_HAS_EXPIRED: 'tls_error',
    CERT_NOT_YET_VALID: 'tls_error',
    DEPTH_ZERO_SELF_SIGNED_CERT: 'tls_error',
    SELF_SIGNED_CERT_IN_CHAIN: 'tls_error',
    UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'tls_error',
    UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'tls_error',
    ERR_TLS_CERT_ALTNAME_INVALID: 'tls_error',
    ERR_SSL_WRONG_VERSION_NUMBER: 'tls_error',
    HPE_INVALID_CONSTANT: 'not_s3',
    HPE_HEADER_OVERFLOW: 'not_s3',
    E_SOMETHING_ELSE: 'unknown',
  };
  for (const [code, expected] of Object.entries(rows)) {
    const error = Object.assign(new Error('connect to internal-host-7 failed'), { code });
    for (const destination of [aws, gcp, r2]) {
      const fault = describeStorageError(error, { step: 'upload', destination });
      t.equal(fault.code, expected, `${code} at ${destination.provider}`);
      t.notMatch(JSON.stringify(fault), /internal-host/);
    }
  }
});

t.test('maps timeouts, refused endpoints and values that are not errors', async t => {
  const describe = (error: unknown) =>
    describeStorageError(error, { step: 'list', destination: r2 }).code;
  t.equal(describe(new DOMException('late', 'TimeoutError')), 'timeout');
  t.equal(describe(Object.assign(new Error('late'), { name: 'TimeoutError' })), 'timeout');
  t.equal(describe(Object.assign(new Error('Request aborted'), { name: 'AbortError' })), 'timeout');
  t.equal(describe(new EndpointNotAllowedError()), 'endpoint_not_allowed');
  for (const thrown of [null, undefined, 'text', 7, {}, new Error('x'), { Code: 7 }]) {
    t.equal(describe(thrown), 'unknown');
  }
});

t.test('repeats only transient errors', async t => {
  for (const [code, transient] of Object.entries(storageErrorCodes))
    t.equal(isTransient(code as StorageErrorCode), transient, code);
});
