import https from 'node:https';
import type { LookupFunction } from 'node:net';
import tls from 'node:tls';
import { S3Client, type S3ClientConfig } from '@aws-sdk/client-s3';
import type { EndpointAllowlist } from '../../outbound/endpoint-allowlist.ts';
import { createGuardedAgents } from '../../outbound/endpoint-guard.ts';
import { createTenantLookup } from '../../outbound/tenant-lookup.ts';
import type { Credentials, Destination } from '../destination.ts';
import { addContentMd5 } from './content-md5.ts';
import { createRequestHandler, type RequestLimits, type StoragePace } from './request-handler.ts';

/** Limits of the requests of one client. */
export interface ClientPatience extends RequestLimits {
  /** Requests in all for one call. The SDK repeats after 5xx, throttling and broken connections. */
  readonly maxAttempts: number;
}

/** A check reports what it saw the first time: a caller is waiting. */
export const checkPatience: ClientPatience = {
  maxAttempts: 1,
  connectMs: 5_000,
  answerMs: 12_000,
  completeMs: 12_000,
  minBytesPerSecond: 128 * 1024,
};

/** With a part of 8 MiB, a request ends after at most 94 s. */
export const runPatience: ClientPatience = {
  maxAttempts: 3,
  connectMs: 5_000,
  answerMs: 30_000,
  completeMs: 300_000,
  minBytesPerSecond: 128 * 1024,
};

/** What the operator decides, not the tenant. */
export interface ClientEnvironment {
  readonly allowlist: EndpointAllowlist;
  /** PEM of a certificate authority that may sign custom endpoints, beside the public ones. */
  readonly extraCa?: string;
  /** Resolves host names that tenants choose. Default: `createTenantLookup()`. */
  readonly resolve?: LookupFunction;
}

/**
 * Creates a client for one destination. `destroy()` it when done: it holds its own connections.
 * Reads nothing from the process environment and does not follow redirects.
 *
 * @param pace measures the requests of this client
 */
export function createS3Client(
  destination: Destination,
  credentials: Credentials,
  environment: ClientEnvironment,
  patience: ClientPatience,
  pace?: StoragePace,
): S3Client {
  const client = new S3Client({
    ...addressing(destination),
    region: destination.region,
    credentials,
    requestHandler: createRequestHandler(createAgents(destination, environment), patience, pace),
    maxAttempts: patience.maxAttempts,
    retryMode: 'standard',
    ...checksums(destination),
    // Each is the default; stated so that no shared configuration file of the machine changes it.
    followRegionRedirects: false,
    useArnRegion: false,
    useDualstackEndpoint: false,
    useFipsEndpoint: false,
    disableS3ExpressSessionAuth: true,
    // Agents of our own make the SDK send the body without waiting, so the header would only be a way to fail.
    expectContinueHeader: false,
    logger: silent,
  });
  if (destination.provider !== 'aws') addContentMd5(client);
  return client;
}

/** Providers that answer `https://<bucket>.<endpoint>` alone, and refuse `https://<endpoint>/<bucket>`. */
const virtualHostedOnly = /\.(?:aliyuncs|myqcloud|volces|ivolces)\.com$/;

function addressing({
  provider,
  region,
  endpoint,
}: Destination): Pick<S3ClientConfig, 'endpoint' | 'forcePathStyle'> {
  switch (provider) {
    case 'aws':
      // The SDK's own default, written out because AWS_ENDPOINT_URL would change that. With a dotted bucket, which
      // the certificate of *.s3.… does not cover, the SDK takes the path style by itself.
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
 * Returns whether the SDK adds CRC-32 checksums. Other providers refuse or misread them, so they get
 * Content-MD5 instead.
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
  if (provider === 'custom') {
    return createGuardedAgents(allowlist, {
      ...agentOptions,
      ...(extraCa === undefined ? {} : { ca: [...tls.rootCertificates, extraCa] }),
      ...(resolve === undefined ? {} : { resolve }),
    });
  }
  // The names of Amazon and Google may resolve to private addresses inside of their clouds. The
  // tenant chooses the bucket and the region in the name, so it must not occupy `getaddrinfo`.
  const lookup = resolve ?? createTenantLookup();
  return { httpsAgent: new https.Agent({ ...agentOptions, lookup }) };
}
