import dns from 'node:dns';
import http from 'node:http';
import https from 'node:https';
import type { LookupFunction } from 'node:net';
import { AssumeRoleCommand, STSClient } from '@aws-sdk/client-sts';
import { createRequestHandler } from './request-handler.ts';
import { trustedCa } from './trusted-ca.ts';

/**
 * Assumes roles of customers at AWS STS. The standard chain of the SDK finds the identity of the
 * operator in variables, shared files, web identity, or metadata of the container or machine. Only
 * this module reads it, and sends it to STS only.
 */

export interface RoleRequest {
  readonly roleArn: string;
  /** Id in the condition `sts:ExternalId` of the trust policy; null to send none. */
  readonly externalId: string | null;
}

/** Temporary credentials of a role. */
export interface RoleSession {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken: string;
  readonly expiration: Date;
}

export interface Roles {
  /** Returns true if the chain of the SDK finds an identity. */
  hasIdentity(): Promise<boolean>;
  /** Starts a session. @throws AssumeRoleError */
  assume(request: RoleRequest): Promise<RoleSession>;
  destroy(): void;
}

/** Error for a role that cannot be assumed. `cause` is the error of the SDK. */
export class AssumeRoleError extends Error {
  override readonly name = 'AssumeRoleError';

  constructor(cause: unknown) {
    super('the role cannot be assumed', { cause });
  }
}

export interface RoleOptions {
  /** Region whose STS is asked. Its sessions are valid in every region of the partition. */
  readonly region: string;
  /** PEM of a certificate authority that may sign STS, in addition to the public ones. */
  readonly extraCa?: string;
  /** Resolves the host of STS. Default: `dns.lookup`, because the operator chose the host. */
  readonly resolve?: LookupFunction;
}

/**
 * Length of a session in seconds, the shortest that STS accepts. The SDK starts the next session
 * five minutes before the end.
 */
const sessionSeconds = 900;
/** Limits of one request. Two attempts end within the limit of a check. */
const limits = { connectMs: 3_000, answerMs: 5_000, completeMs: 5_000, minBytesPerSecond: 1_024 };

export function createRoles({ region, extraCa, resolve = dns.lookup }: RoleOptions): Roles {
  const agentOptions: https.AgentOptions = {
    keepAlive: true,
    lookup: resolve,
    ...trustedCa(extraCa),
  };
  const agents = {
    // The variable AWS_ENDPOINT_URL_STS may name plain http.
    httpAgent: new http.Agent({ keepAlive: true }),
    httpsAgent: new https.Agent(agentOptions),
  };
  const client = new STSClient({
    region,
    maxAttempts: 2,
    requestHandler: createRequestHandler(agents, limits),
  });
  return {
    async hasIdentity() {
      return await client.config.credentials().then(
        () => true,
        () => false,
      );
    },
    async assume({ roleArn, externalId }) {
      try {
        const { Credentials: found } = await client.send(
          new AssumeRoleCommand({
            RoleArn: roleArn,
            RoleSessionName: 'warehouse-export',
            DurationSeconds: sessionSeconds,
            ...(externalId !== null && { ExternalId: externalId }),
          }),
        );
        const { AccessKeyId, SecretAccessKey, SessionToken, Expiration } = found ?? {};
        if (!AccessKeyId || !SecretAccessKey || !SessionToken || !Expiration) {
          throw new Error('the answer of STS has no complete credentials');
        }
        return {
          accessKeyId: AccessKeyId,
          secretAccessKey: SecretAccessKey,
          sessionToken: SessionToken,
          expiration: Expiration,
        };
      } catch (error) {
        throw new AssumeRoleError(error);
      }
    },
    destroy: () => client.destroy(),
  };
}
