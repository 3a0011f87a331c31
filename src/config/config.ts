/**
 * Reads the configuration from the process environment. No other file of `src` reads `process.env`.
 */
import { ConfigError, type Env, readVariable, readVariables } from './read-variables.ts';
import { splitEncryptionKeys, splitList, toOrigin } from './value-forms.ts';
import type { Variables } from './variables.ts';

export { ConfigError } from './read-variables.ts';

export interface EncryptionKey {
  readonly id: string;
  /** 32 bytes, for AES-256-GCM. */
  readonly key: Buffer;
}

export interface Config {
  readonly databaseUrl: string;
  /** URL of the database that exports read: a replica, or the main database. */
  readonly snapshotDatabaseUrl: string;
  readonly host: string;
  readonly port: number;
  readonly adminToken: string;
  /** Encryption keys, at least one. The first encrypts, all decrypt. */
  readonly encryptionKeys: readonly [EncryptionKey, ...EncryptionKey[]];
  readonly processRole: Variables['PROCESS_ROLE'];
  /** Origin of download links without a trailing slash; null to use the origin of the request. */
  readonly publicUrl: string | null;
  /** Hosts, `host:port` or CIDRs that may be private or plain http. */
  readonly s3EndpointAllowlist: readonly string[];
  /** Settings of roles at AWS; null if customers cannot use roles. */
  readonly roles: { readonly region: string } | null;
  readonly logLevel: Variables['LOG_LEVEL'];
  /** True if the standard variables of OpenTelemetry turn tracing on. */
  readonly tracing: boolean;
  /** Time for which chunks of a replaced snapshot are kept for downloads in progress. */
  readonly chunkGraceMinutes: number;
  /** Time in milliseconds for which the process continues to serve after SIGTERM. */
  readonly drainMs: number;
  /** Identity provider whose access tokens are accepted; null if there is none. */
  readonly jwt: JwtConfig | null;
  /** Origins whose pages may read responses in a browser, in the form that browsers send. */
  readonly corsOrigins: readonly string[];
  /** Requests per minute of one key or user; 0 for no limit. */
  readonly rateLimitPerCaller: number;
  /** Failed authentications per minute from one address; 0 for no limit. */
  readonly rateLimitFailedLogins: number;
  /**
   * Trusted proxies, whose `X-Forwarded-…` headers count: none, a number in a row, or addresses.
   */
  readonly trustProxy: false | number | readonly string[];
  /** Bounds of a request that sends a snapshot. */
  readonly ingest: {
    /** A slower sender is refused. The rate is averaged over `averageMs`. */
    readonly minBytesPerSecond: number;
    readonly averageMs: number;
    readonly maxMs: number;
  };
  /** Snapshots to keep, and days for which runs and audit lines are kept. */
  readonly retention: {
    readonly snapshots: Variables['SNAPSHOT_RETENTION'];
    readonly runDays: number;
    readonly auditDays: number;
  };
}

export interface JwtConfig {
  readonly issuer: string;
  readonly audience: string;
  readonly jwksUrl: URL;
  /** Claim that names environments. */
  readonly environmentsClaim: string;
  /** Claim that names scopes. */
  readonly scopesClaim: string;
}

/**
 * Reads the whole configuration.
 * @throws ConfigError that names the first invalid variable
 */
export function readConfig(env: Env): Config {
  const read = readVariables(env);
  return Object.freeze({
    databaseUrl: read.DATABASE_URL,
    snapshotDatabaseUrl: read.SNAPSHOT_DATABASE_URL ?? read.DATABASE_URL,
    host: read.HOST,
    port: read.PORT,
    adminToken: read.ADMIN_TOKEN,
    encryptionKeys: encryptionKeys(read),
    processRole: read.PROCESS_ROLE,
    publicUrl: toOrigin(read.PUBLIC_URL ?? ''),
    s3EndpointAllowlist: read.S3_ENDPOINT_ALLOWLIST,
    roles: read.AWS_ASSUME_ROLE === 'true' ? { region: read.AWS_REGION } : null,
    logLevel: read.LOG_LEVEL,
    tracing: tracing(read),
    chunkGraceMinutes: read.CHUNK_GRACE_MINUTES,
    drainMs: 1000 * read.SHUTDOWN_DRAIN_SECONDS,
    jwt: jwt(read),
    corsOrigins: read.CORS_ORIGINS.map(value => toOrigin(value) ?? value),
    rateLimitPerCaller: read.RATE_LIMIT_PER_CALLER,
    rateLimitFailedLogins: read.RATE_LIMIT_FAILED_LOGINS,
    trustProxy: trustProxy(read),
    ingest: {
      minBytesPerSecond: read.INGEST_MIN_BYTES_PER_SECOND,
      averageMs: 60_000,
      maxMs: 1000 * read.INGEST_MAX_SECONDS,
    },
    retention: {
      snapshots: read.SNAPSHOT_RETENTION,
      runDays: read.RUN_RETENTION_DAYS,
      auditDays: read.AUDIT_RETENTION_DAYS,
    },
  });
}

/** Reads the only variable that a migration needs. */
export function readDatabaseUrl(env: Env): string {
  return readVariable(env, 'DATABASE_URL');
}

function encryptionKeys({ ENCRYPTION_KEYS }: Variables): Config['encryptionKeys'] {
  const keys = splitEncryptionKeys(ENCRYPTION_KEYS) ?? [];
  const [first, ...rest] = keys.map(({ id, encoded }) => ({
    id,
    key: Buffer.from(encoded, 'base64'),
  }));
  if (first === undefined) throw new ConfigError('ENCRYPTION_KEYS is required');
  return [first, ...rest];
}

function jwt(read: Variables): JwtConfig | null {
  const { JWT_ISSUER, JWT_AUDIENCE, JWT_JWKS_URL } = read;
  const together = { JWT_ISSUER, JWT_AUDIENCE, JWT_JWKS_URL };
  const given = Object.entries(together).flatMap(([name, value]) => (value ? [name] : []));
  if (given.length === 0) return null;
  if (JWT_ISSUER === undefined || JWT_AUDIENCE === undefined || JWT_JWKS_URL === undefined) {
    const absent = Object.keys(together).find(name => !given.includes(name));
    throw new ConfigError(`${absent} is required with ${given.join(' and ')}`);
  }
  return {
    issuer: JWT_ISSUER,
    audience: JWT_AUDIENCE,
    jwksUrl: new URL(JWT_JWKS_URL),
    environmentsClaim: read.JWT_ENVIRONMENTS_CLAIM,
    scopesClaim: read.JWT_SCOPES_CLAIM,
  };
}

function trustProxy({ TRUST_PROXY }: Variables): Config['trustProxy'] {
  if (TRUST_PROXY === 'false') return false;
  return /^\d+$/.test(TRUST_PROXY) ? Number(TRUST_PROXY) : splitList(TRUST_PROXY);
}

/**
 * Returns true if the variables turn tracing on. See
 * https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
 */
function tracing(read: Variables): boolean {
  if (read.OTEL_SDK_DISABLED?.toLowerCase() === 'true') return false;
  if (read.OTEL_TRACES_EXPORTER !== undefined) return read.OTEL_TRACES_EXPORTER !== 'none';
  const { OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT } = read;
  return (OTEL_EXPORTER_OTLP_ENDPOINT ?? OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) !== undefined;
}
