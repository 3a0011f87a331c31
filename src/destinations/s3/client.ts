import https from 'node:https';
import type { LookupFunction } from 'node:net';
import { S3Client, type S3ClientConfig } from '@aws-sdk/client-s3';
import type { EndpointAllowlist } from '../../outbound/endpoint-allowlist.ts';
import { createGuardedAgents } from '../../outbound/endpoint-guard.ts';
import { createTenantLookup } from '../../outbound/tenant-lookup.ts';
import { type Access, type Destination, isRole, type Role } from '../destination.ts';
import { addContentMd5 } from './content-md5.ts';
import { createRequestHandler, type RequestLimits, type StoragePace } from './request-handler.ts';
import { AssumeRoleError, type RoleSession, type Roles } from './roles.ts';
import { trustedCa } from './trusted-ca.ts';

/** Limits of the requests of one client. */
export interface ClientTimeouts extends RequestLimits {
  /**
   * Maximum number of requests for one call. The SDK retries on 5xx, throttling and broken
   * connections.
   */
  readonly maxAttempts: number;
}

/** Limits of a check. It does not retry, because a caller waits for it. */
export const checkTimeouts: ClientTimeouts = {
  maxAttempts: 1,
  connectMs: 5_000,
  answerMs: 12_000,
  completeMs: 12_000,
  minBytesPerSecond: 128 * 1024,
};

/** Limits of a run. A request with a part of 8 MiB ends after at most 94 s. */
export const runTimeouts: ClientTimeouts = {
  maxAttempts: 3,
  connectMs: 5_000,
  answerMs: 30_000,
  completeMs: 300_000,
  minBytesPerSecond: 128 * 1024,
};

/** Settings of the operator for connections to tenants' endpoints. */
export interface ClientEnvironment {
  readonly allowlist: EndpointAllowlist;
  /**
   * PEM of a certificate authority that may sign endpoints, in addition to the public ones.
   */
  readonly extraCa?: string;
  /** Resolves host names that tenants choose. Default: `createTenantLookup()`. */
  readonly resolve?: LookupFunction;
  /** Default: null, roles of AWS cannot be used. */
  readonly roles?: Roles | null;
}

/**
 * Creates a client for one destination. Call `destroy()` when done: it holds its own connections.
 * It reads nothing from the process environment and does not follow redirects.
 *
 * @param pace measures the requests of this client
 */
export function createS3Client(
  destination: Destination,
  access: Access,
  environment: ClientEnvironment,
  timeouts: ClientTimeouts,
  pace?: StoragePace,
): S3Client {
  const client = new S3Client({
    ...addressing(destination),
    region: destination.region,
    credentials: isRole(access)
      ? // The SDK requests a new session five minutes before the last one expires.
        () => startSession(access, environment)
      : // A copy, because the SDK adds a property to the object that it gets.
        { ...access },
    requestHandler: createRequestHandler(createAgents(destination, environment), timeouts, pace),
    maxAttempts: timeouts.maxAttempts,
    retryMode: 'standard',
    ...checksums(destination),
    // These are the defaults. They are set so that no shared configuration file changes them.
    followRegionRedirects: false,
    useArnRegion: false,
    useDualstackEndpoint: false,
    useFipsEndpoint: false,
    disableS3ExpressSessionAuth: true,
    // With custom agents the SDK does not wait for `100 Continue`, so the header would have no use.
    expectContinueHeader: false,
    logger: silent,
  });
  if (destination.provider !== 'aws') addContentMd5(client);
  return client;
}

async function startSession(
  { roleArn, externalId }: Role,
  { roles }: ClientEnvironment,
): Promise<RoleSession> {
  if (!roles) throw new AssumeRoleError(new Error('roles are turned off'));
  return await roles.assume({ roleArn, externalId });
}

/**
 * Hosts of providers that accept only `https://<bucket>.<endpoint>`, not
 * `https://<endpoint>/<bucket>`.
 */
const virtualHostedOnly = /\.(?:aliyuncs|myqcloud|volces|ivolces)\.com$/;

function addressing({
  provider,
  region,
  endpoint,
}: Destination): Pick<S3ClientConfig, 'endpoint' | 'forcePathStyle'> {
  switch (provider) {
    case 'aws':
      // The default of the SDK, set because AWS_ENDPOINT_URL would override it. The SDK switches to
      // path style for buckets with dots, which the certificate of *.s3.… does not cover.
      return {
        endpoint: `https://s3.${region}.${region.startsWith('cn-') ? 'amazonaws.com.cn' : 'amazonaws.com'}`,
        forcePathStyle: false,
      };
    case 'gcp':
      return { endpoint: 'https://storage.googleapis.com', forcePathStyle: true };
    case 'custom': {
      if (endpoint === null) throw new Error('a custom destination has an endpoint');
      return { endpoint, forcePathStyle: !virtualHostedOnly.test(new URL(endpoint).hostname) };
    }
  }
}

/**
 * Returns the checksum settings. The SDK adds CRC-32 checksums only for Amazon. Other providers
 * refuse or misread them, so they get Content-MD5.
 */
function checksums({
  provider,
}: Destination): Pick<S3ClientConfig, 'requestChecksumCalculation' | 'responseChecksumValidation'> {
  const when = provider === 'aws' ? 'WHEN_SUPPORTED' : 'WHEN_REQUIRED';
  return { requestChecksumCalculation: when, responseChecksumValidation: when };
}

const silent = { debug() {}, info() {}, warn() {}, error() {} };

const agentOptions: https.AgentOptions = { keepAlive: true, maxSockets: 16 };

function createAgents(
  { provider }: Destination,
  { allowlist, extraCa, resolve }: ClientEnvironment,
) {
  const options = { ...agentOptions, ...trustedCa(extraCa) };
  if (provider === 'custom') {
    return createGuardedAgents(allowlist, {
      ...options,
      ...(resolve === undefined ? {} : { resolve }),
    });
  }
  // Hosts of Amazon and Google may resolve to private addresses inside their clouds. The tenant
  // chooses the bucket and the region in the name, so the lookup must not occupy `getaddrinfo`.
  const lookup = resolve ?? createTenantLookup();
  return { httpsAgent: new https.Agent({ ...options, lookup }) };
}
