/** The only reader of the process environment. Nothing else in `src` looks at `process.env`. */
import { isIP } from 'node:net';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import {
  ConfigError,
  type Env,
  isNetwork,
  list,
  malformed,
  missing,
  oneOf,
  origin,
  postgresUrl,
  text,
  wholeNumber,
  word,
} from './env-values.ts';

export { ConfigError } from './env-values.ts';

export type ProcessRole = 'all' | 'api' | 'worker';

export interface EncryptionKey {
  readonly id: string;
  /** 32 bytes, for AES-256-GCM. */
  readonly key: Buffer;
}

export interface Config {
  readonly databaseUrl: string;
  /** Where exports read; the main database unless a replica is named. */
  readonly snapshotDatabaseUrl: string;
  readonly host: string;
  readonly port: number;
  readonly adminToken: string;
  /** The first encrypts, all decrypt. Never empty. */
  readonly encryptionKeys: readonly [EncryptionKey, ...EncryptionKey[]];
  readonly processRole: ProcessRole;
  /** Origin for links, without a trailing slash; null: the origin that the request named. */
  readonly publicUrl: string | null;
  /** Hosts, `host:port` or CIDRs that custom endpoints and webhooks may be although private or plain http. */
  readonly s3EndpointAllowlist: readonly string[];
  readonly logLevel: LogLevel;
  /** Whether the standard variables of OpenTelemetry ask for traces; the rest of them is the SDK's to read. */
  readonly tracing: boolean;
  /** Where rendered parts of files are kept, and how much of them; null: they are not kept. */
  readonly partStore: { readonly directory: string; readonly maxBytes: number } | null;
  /** How many large parts of downloads the database renders at once for this process. */
  readonly rendersAtOnce: number;
  /** How long the process serves on after SIGTERM, so that balancers see first that it is not ready any more. */
  readonly drainMs: number;
  /** The identity provider whose access tokens are taken; null: none. */
  readonly jwt: JwtConfig | null;
  /** Origins whose pages may read answers in a browser, as a browser writes them. */
  readonly corsOrigins: readonly string[];
  /** Requests a minute of one key or user; 0: no limit. */
  readonly rateLimitPerCaller: number;
  /** Failed authentications a minute from one address; 0: no limit. */
  readonly rateLimitFailedLogins: number;
  /** Whose `X-Forwarded-…` headers count: nobody's, those of so many proxies in a row, or those of these addresses. */
  readonly trustProxy: false | number | readonly string[];
  /** What stays: the snapshots that an export can still show, or all; runs and audit lines by their age. */
  readonly retention: {
    readonly snapshots: 'needed' | 'all';
    readonly runDays: number;
    readonly auditDays: number;
  };
}

export interface JwtConfig {
  readonly issuer: string;
  readonly audience: string;
  readonly jwksUrl: URL;
  /** The claim that names environments, and the one that names scopes. */
  readonly environmentsClaim: string;
  readonly scopesClaim: string;
}

const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;
type LogLevel = (typeof logLevels)[number];

/** Reads the whole configuration or throws a ConfigError that names the first variable at fault. */
export function readConfig(env: Env): Config {
  const databaseUrl = readDatabaseUrl(env);
  return Object.freeze({
    databaseUrl,
    snapshotDatabaseUrl: postgresUrl(env, 'SNAPSHOT_DATABASE_URL') ?? databaseUrl,
    host: host(env),
    port: wholeNumber(env, 'PORT', { least: 0, most: 65_535, otherwise: 3000 }),
    adminToken: adminToken(env),
    encryptionKeys: encryptionKeys(env),
    processRole: oneOf(env, 'PROCESS_ROLE', ['all', 'api', 'worker'], 'all'),
    publicUrl: publicUrl(env),
    s3EndpointAllowlist: list(env, 'S3_ENDPOINT_ALLOWLIST'),
    logLevel: oneOf(env, 'LOG_LEVEL', logLevels, 'info'),
    tracing: tracing(env),
    partStore: partStore(env),
    rendersAtOnce: wholeNumber(env, 'RENDERS_AT_ONCE', {
      least: 1,
      most: 16,
      // One core is left for everything else, as the database may be on this machine, too.
      otherwise: Math.min(16, Math.max(1, availableParallelism() - 1)),
    }),
    drainMs:
      1000 *
      wholeNumber(env, 'DRAIN_SECONDS', { least: 0, most: 20, otherwise: 5, unit: 'seconds' }),
    jwt: jwt(env),
    corsOrigins: corsOrigins(env),
    rateLimitPerCaller: perMinute(env, 'RATE_LIMIT_PER_CALLER', 1200),
    rateLimitFailedLogins: perMinute(env, 'RATE_LIMIT_FAILED_LOGINS', 30),
    trustProxy: trustProxy(env),
    retention: {
      snapshots: oneOf(env, 'SNAPSHOT_RETENTION', ['needed', 'all'], 'needed'),
      runDays: days(env, 'RUN_RETENTION_DAYS', 90),
      auditDays: days(env, 'AUDIT_RETENTION_DAYS', 400),
    },
  });
}

/** All that a migration needs to know. */
export function readDatabaseUrl(env: Env): string {
  return postgresUrl(env, 'DATABASE_URL') ?? missing('DATABASE_URL');
}

function host(env: Env): string {
  const value = text(env, 'HOST') ?? '127.0.0.1';
  if (isIP(value) === 0 && !/^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$/.test(value)) {
    throw new ConfigError('HOST must be an IP address or a host name, without scheme and port');
  }
  return value;
}

function adminToken(env: Env): string {
  const value = text(env, 'ADMIN_TOKEN') ?? missing('ADMIN_TOKEN');
  if (value.length < 32) throw new ConfigError('ADMIN_TOKEN must have at least 32 characters');
  if (!/^[\x21-\x7e]+$/.test(value))
    throw new ConfigError('ADMIN_TOKEN must be printable ASCII without spaces');
  return value;
}

function encryptionKeys(env: Env): [EncryptionKey, ...EncryptionKey[]] {
  const name = 'ENCRYPTION_KEYS';
  const value = text(env, name) ?? missing(name);
  const [first, ...rest] = value.split(',').map(entry => {
    const [, id, encoded] = /^([A-Za-z0-9_-]{1,32}):([A-Za-z0-9+/]{43}=)$/.exec(entry.trim()) ?? [];
    if (id === undefined || encoded === undefined) {
      throw new ConfigError(`${name} must be id:base64 of 32 bytes, several separated by commas`);
    }
    return { id, key: Buffer.from(encoded, 'base64') };
  });
  if (first === undefined) return missing(name);
  const keys: [EncryptionKey, ...EncryptionKey[]] = [first, ...rest];
  if (new Set(keys.map(key => key.id)).size !== keys.length) {
    throw new ConfigError(`${name} names the same id twice`);
  }
  return keys;
}

function publicUrl(env: Env): string | null {
  const value = text(env, 'PUBLIC_URL');
  if (value === null) return null;
  return (
    origin(value) ?? malformed('PUBLIC_URL must be an origin like https://exports.example.com')
  );
}

/** A list of origins; `*` is none: who may read customers' data is named. */
function corsOrigins(env: Env): string[] {
  return list(env, 'CORS_ORIGINS').map(
    value =>
      origin(value) ??
      malformed(
        'CORS_ORIGINS must be origins like https://app.example.com, several separated by commas',
      ),
  );
}

function jwt(env: Env): JwtConfig | null {
  const names = ['JWT_ISSUER', 'JWT_AUDIENCE', 'JWT_JWKS_URL'] as const;
  const given = names.filter(name => text(env, name) !== null);
  if (given.length === 0) return null;
  const absent = names.find(name => !given.includes(name));
  if (absent !== undefined)
    throw new ConfigError(`${absent} is required with ${given.join(' and ')}`);
  return {
    issuer: word(env, 'JWT_ISSUER'),
    audience: word(env, 'JWT_AUDIENCE'),
    jwksUrl: jwksUrl(env),
    environmentsClaim: word(env, 'JWT_ENVIRONMENTS_CLAIM', 'environments'),
    scopesClaim: word(env, 'JWT_SCOPES_CLAIM', 'scope'),
  };
}

/** Whoever can change the answer on its way can sign in as anyone, so plain http is for this machine alone. */
function jwksUrl(env: Env): URL {
  const value = text(env, 'JWT_JWKS_URL') ?? '';
  const url = URL.canParse(value) ? new URL(value) : null;
  const isLoopback = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(url?.hostname ?? '');
  const isSafe = url?.protocol === 'https:' || (url?.protocol === 'http:' && isLoopback);
  if (url === null || !isSafe || url.username !== '' || url.password !== '') {
    throw new ConfigError(
      'JWT_JWKS_URL must be an https URL without a user (http only for loopback)',
    );
  }
  return url;
}

function perMinute(env: Env, name: string, otherwise: number): number {
  return wholeNumber(env, name, {
    least: 0,
    most: 999_999_999,
    otherwise,
    unit: 'requests, 0 for no limit,',
  });
}

function days(env: Env, name: string, otherwise: number): number {
  return wholeNumber(env, name, { least: 1, most: 99_999, otherwise, unit: 'days' });
}

function trustProxy(env: Env): Config['trustProxy'] {
  const value = text(env, 'TRUST_PROXY') ?? 'false';
  if (value === 'false') return false;
  if (/^[1-9]\d?$/.test(value)) return Number(value);
  const networks = list(env, 'TRUST_PROXY');
  if (networks.length === 0 || !networks.every(isNetwork)) {
    throw new ConfigError(
      'TRUST_PROXY must be false, a number of proxies from 1 to 99, or addresses and CIDRs',
    );
  }
  return networks;
}

/** https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ */
function tracing(env: Env): boolean {
  if (text(env, 'OTEL_SDK_DISABLED')?.toLowerCase() === 'true') return false;
  const exporter = text(env, 'OTEL_TRACES_EXPORTER');
  if (exporter !== null) return exporter !== 'none';
  return ['OTEL_EXPORTER_OTLP_ENDPOINT', 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT'].some(
    name => text(env, name) !== null,
  );
}

function partStore(env: Env): Config['partStore'] {
  const megabytes = wholeNumber(env, 'PART_STORE_MB', {
    least: 0,
    most: 99_999_999,
    otherwise: 2048,
    unit: 'MiB',
  });
  if (megabytes === 0) return null;
  const directory = text(env, 'PART_STORE_DIR') ?? path.join(tmpdir(), 'warehouse-export-parts');
  if (!path.isAbsolute(directory)) throw new ConfigError('PART_STORE_DIR must be an absolute path');
  return { directory, maxBytes: megabytes * 1024 * 1024 };
}
