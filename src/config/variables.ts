import { type Static, Type } from 'typebox';
import {
  isHost,
  isKeySetUrl,
  isPostgresUrl,
  isRegion,
  isTrustProxy,
  splitEncryptionKeys,
  toOrigin,
} from './value-forms.ts';
import {
  checked,
  checkedWithDefault,
  list,
  oneOf,
  openTelemetry,
  wholeNumber,
  word,
} from './variable-types.ts';

const postgresUrl = 'a URL like postgres://user:password@host:5432/database';
const originForm = 'like https://app.example.com';

export const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;

/**
 * Schema of all environment variables. Parsing, `.env.example` and `docs/configuration.md` come
 * from it. After a change run `npm run configuration`.
 */
export const variables = Type.Object({
  DATABASE_URL: checked(postgresUrl, isPostgresUrl, {
    group: 'Database',
    description:
      'The main database, PostgreSQL 15 to 18. `npm run migrate` creates and updates its schema. `?sslmode=verify-full` turns TLS on.',
    example: 'postgres://warehouse_export:change-me@127.0.0.1:5432/warehouse_export',
  }),
  SNAPSHOT_DATABASE_URL: Type.Optional(
    checked(postgresUrl, isPostgresUrl, {
      group: 'Database',
      description: 'The database that exports read, such as a read replica.',
      defaultText: 'the value of `DATABASE_URL`',
      example: 'postgres://warehouse_export:change-me@127.0.0.1:5433/warehouse_export',
    }),
  ),
  ADMIN_TOKEN: Type.String({
    pattern: '^[\\x21-\\x7e]{32,}$',
    mustBe: 'at least 32 characters of printable ASCII without spaces',
    group: 'Secrets',
    description:
      'The bearer token of the operator, at least 32 characters. Create one with `openssl rand -base64 36`.',
    example: '',
  }),
  ENCRYPTION_KEYS: checked(
    'id:base64 of 32 bytes, several with distinct ids separated by commas',
    value => splitEncryptionKeys(value) !== null,
    {
      group: 'Secrets',
      description:
        'The keys that encrypt the storage credentials of customers, as `id:base64(32 bytes)`, several separated by commas. The first encrypts, all decrypt. Create one with `echo "$(date +%Y%m):$(openssl rand -base64 32)"`. To replace it, put the new key in front, restart, run `npm run secrets:rotate`, and remove the old key.',
      example: '',
    },
  ),
  HOST: checkedWithDefault('an IP address or a host name, without scheme and port', isHost, {
    group: 'Network',
    description: 'The address to listen on.',
    default: '127.0.0.1',
  }),
  PORT: wholeNumber({
    group: 'Network',
    description: 'The port to listen on. 0 takes any free port.',
    minimum: 0,
    maximum: 65_535,
    default: 3000,
  }),
  PUBLIC_URL: Type.Optional(
    checked(`an origin ${originForm}`, value => toOrigin(value) !== null, {
      group: 'Network',
      description: 'The origin of download links.',
      defaultText: 'the origin that the request names',
      example: 'https://exports.example.com',
    }),
  ),
  TRUST_PROXY: checkedWithDefault(
    'false, a number of proxies from 1 to 99, or addresses and CIDRs',
    isTrustProxy,
    {
      group: 'Network',
      description:
        'The proxies whose `X-Forwarded-For`, `-Host` and `-Proto` headers count: `false`, a number of proxies in a row, or their addresses and CIDRs separated by commas. With a number, make sure that callers can reach the service only through the proxies.',
      default: 'false',
      example: '10.0.0.0/8',
    },
  ),
  CORS_ORIGINS: list(`origins ${originForm}`, value => toOrigin(value) !== null, {
    group: 'Network',
    description: 'The origins whose pages may call the API in a browser, separated by commas.',
    example: 'https://app.example.com',
  }),
  S3_ENDPOINT_ALLOWLIST: list('hosts, host:port or CIDRs', () => true, {
    group: 'Network',
    description:
      'The hosts, `host:port` or CIDRs to which custom S3 endpoints and webhooks may point even if they are private or use plain http, separated by commas.',
    example: 'minio.internal:9000,10.20.0.0/16',
  }),
  PROCESS_ROLE: oneOf(['all', 'api', 'worker'], {
    group: 'Process',
    description:
      '`api` serves the API, `worker` executes automatic exports, `all` does both in one process.',
    default: 'all',
  }),
  SHUTDOWN_DRAIN_SECONDS: wholeNumber({
    group: 'Process',
    description:
      'How long the process continues to serve after SIGTERM while `/health/ready` answers 503. Use more than the load balancer needs to notice. It is part of the 30 s in which downloads and runs may finish.',
    unit: 'seconds',
    minimum: 0,
    maximum: 20,
    default: 5,
  }),
  LOG_LEVEL: oneOf(logLevels, {
    group: 'Process',
    description: 'The lowest level of the JSON lines on stdout.',
    default: 'info',
  }),
  AWS_ASSUME_ROLE: oneOf(['false', 'true'], {
    group: 'Roles at AWS',
    description:
      '`true` lets customers give a role of their AWS account instead of an access key (see `docs/guides/aws-role.md`). The service assumes it with the identity that the standard chain of the AWS SDK finds: variables such as `AWS_ACCESS_KEY_ID`, shared files, web identity, or the metadata of the container or machine.',
    default: 'false',
  }),
  AWS_REGION: checkedWithDefault('a region of AWS, such as eu-west-1', isRegion, {
    group: 'Roles at AWS',
    description:
      'The region whose STS starts the sessions of roles. They are valid in all regions of its partition.',
    default: 'us-east-1',
  }),
  JWT_ISSUER: Type.Optional(
    word({
      group: 'Users of an identity provider',
      description:
        'The `iss` claim of JWT access tokens (RS256, ES256 or EdDSA) that browser frontends may send. Set all of `JWT_ISSUER`, `JWT_AUDIENCE` and `JWT_JWKS_URL`, or none.',
      example: 'https://login.example.com/',
    }),
  ),
  JWT_AUDIENCE: Type.Optional(
    word({
      group: 'Users of an identity provider',
      description: 'The `aud` claim of these tokens.',
      example: 'warehouse-export',
    }),
  ),
  JWT_JWKS_URL: Type.Optional(
    checked('an https URL without a user (http only for loopback)', isKeySetUrl, {
      group: 'Users of an identity provider',
      description:
        'The URL of the public keys of the identity provider. It must be https (http only for loopback).',
      example: 'https://login.example.com/.well-known/jwks.json',
    }),
  ),
  JWT_ENVIRONMENTS_CLAIM: word({
    group: 'Users of an identity provider',
    description: 'The claim that names environments: one id or a list.',
    default: 'environments',
  }),
  JWT_SCOPES_CLAIM: word({
    group: 'Users of an identity provider',
    description: 'The claim that names scopes: separated by spaces, or a list.',
    default: 'scope',
  }),
  RATE_LIMIT_PER_CALLER: wholeNumber({
    group: 'Limits',
    description: 'Requests per minute of one API key or user, in each process. 0 sets no limit.',
    unit: 'requests, 0 for no limit,',
    minimum: 0,
    maximum: 999_999_999,
    default: 1200,
  }),
  RATE_LIMIT_FAILED_LOGINS: wholeNumber({
    group: 'Limits',
    description:
      'Failed authentications per minute from one address (IPv6: one /64), in each process. 0 sets no limit.',
    unit: 'requests, 0 for no limit,',
    minimum: 0,
    maximum: 999_999_999,
    default: 30,
  }),
  INGEST_MIN_BYTES_PER_SECOND: wholeNumber({
    group: 'Limits',
    description:
      'Slowest sender of a snapshot, averaged over 60 s. A slower one is answered with 408.',
    unit: 'bytes',
    minimum: 1,
    maximum: 999_999_999,
    default: 1024,
  }),
  INGEST_MAX_SECONDS: wholeNumber({
    group: 'Limits',
    description: 'Longest time that an ingest may take. A longer one is answered with 408.',
    unit: 'seconds',
    minimum: 60,
    maximum: 86_400,
    default: 3600,
  }),
  CHUNK_GRACE_MINUTES: wholeNumber({
    group: 'Retention',
    description:
      'Time for which the rendered bytes of a replaced or deleted snapshot are kept for downloads in progress.',
    unit: 'minutes',
    minimum: 1,
    maximum: 99_999,
    default: 60,
  }),
  SNAPSHOT_RETENTION: oneOf(['needed', 'all'], {
    group: 'Retention',
    description:
      '`needed` deletes every night the snapshots that no export can show any more (see `docs/retention.md`). `all` keeps every snapshot.',
    default: 'needed',
  }),
  RUN_RETENTION_DAYS: wholeNumber({
    group: 'Retention',
    description: 'Days for which finished runs are kept.',
    unit: 'days',
    minimum: 1,
    maximum: 99_999,
    default: 90,
  }),
  AUDIT_RETENTION_DAYS: wholeNumber({
    group: 'Retention',
    description: 'Days for which lines of the audit log are kept.',
    unit: 'days',
    minimum: 1,
    maximum: 99_999,
    default: 400,
  }),
  OTEL_EXPORTER_OTLP_ENDPOINT: openTelemetry({
    description:
      'URL that receives traces as OTLP. The service sends traces if this, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_TRACES_EXPORTER` is set. The SDK of OpenTelemetry reads its other standard variables too.',
    example: 'http://127.0.0.1:4318',
  }),
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: openTelemetry({
    description:
      'URL that receives traces as OTLP, with its path. Overrides `OTEL_EXPORTER_OTLP_ENDPOINT`.',
    example: 'http://127.0.0.1:4318/v1/traces',
  }),
  OTEL_TRACES_EXPORTER: openTelemetry({
    description: 'The exporter of traces. `none` sends none.',
    example: 'otlp',
  }),
  OTEL_SDK_DISABLED: openTelemetry({
    description: '`true` turns tracing off.',
    example: 'true',
  }),
  OTEL_SERVICE_NAME: openTelemetry({
    description: 'The name of the service in traces.',
    example: 'warehouse-export',
  }),
  OTEL_TRACES_SAMPLER: openTelemetry({
    description: 'The sampler of traces.',
    example: 'parentbased_traceidratio',
  }),
  OTEL_TRACES_SAMPLER_ARG: openTelemetry({
    description: 'The argument of the sampler.',
    example: '0.1',
  }),
});

export type Variables = Static<typeof variables>;
