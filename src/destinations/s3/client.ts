import https from 'node:https';
import type { LookupFunction } from 'node:net';
import { pipeline, type Readable, Transform } from 'node:stream';
import tls from 'node:tls';
import { S3Client, type S3ClientConfig } from '@aws-sdk/client-s3';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import type { EndpointAllowlist } from '../../outbound/endpoint-allowlist.ts';
import { createGuardedAgents } from '../../outbound/endpoint-guard.ts';
import type { Credentials, Destination } from '../destination.ts';
import { addContentMd5 } from './content-md5.ts';
import { NotS3Error } from './error-codes.ts';

/** How patient a client is. */
export interface ClientPatience {
  /** Requests in all for one call, the first included. The SDK repeats on 5xx, throttling and broken connections. */
  readonly maxAttempts: number;
  /** Until the connection stands; name resolution included. */
  readonly connectTimeoutMs: number;
  /** From the request's first byte to the answer's headers. */
  readonly requestTimeoutMs: number;
  /** Without a byte in either direction. */
  readonly idleTimeoutMs: number;
}

/** A check tells what it saw the first time, and somebody is waiting for it. */
export const checkPatience: ClientPatience = {
  maxAttempts: 1,
  connectTimeoutMs: 5_000,
  requestTimeoutMs: 12_000,
  idleTimeoutMs: 12_000,
};

/** Completing an upload of thousands of parts may take minutes on the other side. */
export const runPatience: ClientPatience = {
  maxAttempts: 3,
  connectTimeoutMs: 5_000,
  requestTimeoutMs: 300_000,
  idleTimeoutMs: 60_000,
};

/** What the operator, not the customer, decides. */
export interface ClientEnvironment {
  readonly allowlist: EndpointAllowlist;
  /** PEM of a certificate authority that custom endpoints may be signed by, beside the public ones. */
  readonly extraCa?: string;
  /** Stands in for `dns.lookup` at custom endpoints. */
  readonly resolve?: LookupFunction;
}

/**
 * A client for one destination. `destroy()` it when done: it holds its own connections.
 * Nothing is read from the process environment, and redirects are not followed.
 */
export function createS3Client(
  destination: Destination,
  credentials: Credentials,
  environment: ClientEnvironment,
  patience: ClientPatience,
): S3Client {
  const client = new S3Client({
    ...addressing(destination),
    region: destination.region,
    credentials,
    requestHandler: createHandler(destination, environment, patience),
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

function createHandler(
  { provider }: Destination,
  { allowlist, extraCa, resolve }: ClientEnvironment,
  { connectTimeoutMs, requestTimeoutMs, idleTimeoutMs }: ClientPatience,
): NodeHttpHandler {
  const agentOptions: https.AgentOptions = { keepAlive: true, maxSockets: 16 };
  const agents =
    provider === 'custom'
      ? createGuardedAgents(allowlist, {
          ...agentOptions,
          ...(extraCa === undefined ? {} : { ca: [...tls.rootCertificates, extraCa] }),
          ...(resolve === undefined ? {} : { resolve }),
        })
      : // Amazon and Google are dialled by names of their own, which may well be private inside their clouds.
        { httpsAgent: new https.Agent(agentOptions) };
  return new BoundedHandler({
    ...agents,
    connectionTimeout: connectTimeoutMs,
    requestTimeout: requestTimeoutMs,
    throwOnRequestTimeout: true,
    socketTimeout: idleTimeoutMs,
    logger: silent,
  });
}

/** The longest answer that this service asks for is a list of 1,000 unfinished uploads with keys of 1,024 bytes. */
const maxAnswerBytes = 4 * 1024 * 1024;

/** The SDK holds an answer in memory whole, so one without end must not be read to its end. */
class BoundedHandler extends NodeHttpHandler {
  override async handle(
    ...args: Parameters<NodeHttpHandler['handle']>
  ): ReturnType<NodeHttpHandler['handle']> {
    const answer = await super.handle(...args);
    answer.response.body = bound(answer.response.body as Readable);
    return answer;
  }
}

function bound(body: Readable): Readable {
  let bytes = 0;
  const bounded = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      if (bytes > maxAnswerBytes) done(new NotS3Error('the answer has no end'));
      else done(null, chunk);
    },
  });
  // A failure reaches the reader of `bounded`.
  return pipeline(body, bounded, () => {});
}
