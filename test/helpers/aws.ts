/**
 * Plays Amazon S3, STS and KMS on a loopback address: a second gateway to the store of the tests,
 * behind a front with Amazon's host names.
 *
 * The gateway decides about signatures, accounts, roles and their policies. The front decides the
 * condition `sts:ExternalId`, because RADOS Gateway never fills that key, and the statements of roles
 * for KMS keys, because it refuses `kms:` actions. It also gives errors of STS Amazon's form, which
 * the SDK expects. This does not prove how Amazon evaluates conditions and policies of keys, limits
 * sessions or throttles.
 */
import { execFile } from 'node:child_process';
import { randomBytes, randomInt } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { CreateBucketCommand } from '@aws-sdk/client-s3';
import type { Credentials, Destination } from '../../src/destinations/destination.ts';
import {
  type ClientEnvironment,
  createS3Client,
  runTimeouts,
} from '../../src/destinations/s3/client.ts';
import { createRoles } from '../../src/destinations/s3/roles.ts';
import { lookupOf } from './lookup-of.ts';
import { loopback, radosgwAdmin } from './s3.ts';
import { type Gateway, startGateway } from './s3-gateway.ts';
import { registerSecret } from './secrets.ts';

const hostNames = ['s3.us-east-1.amazonaws.com', 'sts.us-east-1.amazonaws.com'] as const;
const [s3Host, stsHost] = hostNames;

/** Request that the front has received. */
export interface AwsRequest {
  readonly host: string;
  readonly method: string;
  readonly path: string;
  /** Access key id of the signature. */
  readonly accessKeyId: string;
  /** Parameters of a request to STS. */
  readonly form: URLSearchParams | null;
}

export interface Aws {
  /** Environment of S3 clients that reaches the front, with the identity of the operator. */
  readonly clientEnvironment: ClientEnvironment;
  /** Variables with which `service-with-clock.ts` reaches the front and assumes roles. */
  readonly variables: Readonly<Record<string, string>>;
  readonly gateway: Gateway;
  /** Port on 127.0.0.1 to which the front forwards. Default: that of the gateway. */
  port: number;
  readonly requests: AwsRequest[];
  /** Access key of the operator, which may assume the roles that trust its account. */
  readonly operator: Credentials;
  readonly operatorAccount: string;
  /** Access key of the customer, which owns the bucket. */
  readonly customer: Credentials;
  readonly customerAccount: string;
  readonly destination: Destination;
  /** Ids that the trust policies of roles demand, by ARN. Other roles demand none. */
  readonly externalIds: Map<string, string>;
  /** Statements of roles about KMS keys, by ARN. A change applies to the next request. */
  readonly keyStatements: Map<string, readonly KeyStatement[]>;
  /** Time in ms after which sessions claim to end. Null: as the gateway says. */
  sessionMs: number | null;
  /**
   * Creates a role of the customer.
   * @param statements its rights
   * @param trust its trust policy. Default: `trustOf` the operator
   * @returns its ARN
   */
  createRole(statements: readonly object[], trust?: readonly TrustStatement[]): Promise<string>;
}

/** Statement of a trust policy. The front takes the external id out and checks it. */
export interface TrustStatement {
  readonly Effect: 'Allow';
  readonly Principal: object;
  readonly Action: string;
  readonly Condition?: { readonly StringEquals: { readonly 'sts:ExternalId': string } };
}

/** Statement of a role about KMS keys. */
export interface KeyStatement {
  readonly Action: readonly string[];
  /** Name of a key in the gateway. */
  readonly Resource: string;
}

function isKeyStatement(statement: object): statement is KeyStatement {
  const { Action } = statement as Partial<KeyStatement>;
  return Array.isArray(Action) && Action.some(action => action.startsWith('kms:'));
}

/** Returns a statement that trusts an account, whatever external id it sends. */
export function trustOf(account: string): TrustStatement {
  return {
    Effect: 'Allow',
    Principal: { AWS: `arn:aws:iam::${account}:root` },
    Action: 'sts:AssumeRole',
  };
}

/**
 * Returns options of a test that calls `startAws`, in addition to `needsS3`. Without the port, the
 * test is listed as skipped.
 */
export async function needsPort443(): Promise<{ skip?: string }> {
  const server = net.createServer().listen(443, ownAddress());
  try {
    await once(server, 'listening');
    return {};
  } catch (error) {
    return { skip: `port 443 of loopback cannot be used: ${error}` };
  } finally {
    server.close();
  }
}

/**
 * Returns a loopback address that no other test uses, because the port is fixed and tests run at
 * the same time.
 */
function ownAddress(): string {
  return `127.${randomInt(1, 255)}.${randomInt(0, 255)}.${randomInt(1, 255)}`;
}

interface TestWithTeardown {
  teardown(handler: () => Promise<void>): void;
}

/** @param options more options of the gateway */
export async function startAws(t: TestWithTeardown, options: readonly string[] = []): Promise<Aws> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'warehouse-export-aws-'));
  t.teardown(async () => fs.rmSync(directory, { recursive: true }));
  await nameHosts(directory);
  const operator = { account: account(), ...keyPair() };
  const customer = { account: account(), ...keyPair() };
  const [gateway, pem] = await Promise.all([
    startGateway([
      '--rgw-s3-auth-use-sts=true',
      `--rgw-sts-key=${randomBytes(8).toString('hex')}`,
      ...options,
    ]),
    createCertificate(directory),
    createAccount(operator),
    createAccount(customer),
  ]);
  t.teardown(gateway.stop);

  const requests: AwsRequest[] = [];
  const externalIds = new Map<string, string>();
  const keyStatements = new Map<string, readonly KeyStatement[]>();
  /** ARN of the role of each session, by its access key id. */
  const roleOfSession = new Map<string, string>();
  /** Returns true if the role of a session lacks a right for the KMS key of an upload. */
  const lacksKeyRight = (accessKeyId: string, { method, headers }: http.IncomingMessage) => {
    const role = roleOfSession.get(accessKeyId);
    if (role === undefined || headers['x-amz-server-side-encryption'] !== 'aws:kms') return false;
    const key = headers['x-amz-server-side-encryption-aws-kms-key-id'];
    // Of the requests with this header, only the start of a multipart upload is a POST.
    const needed = ['kms:GenerateDataKey', ...(method === 'POST' ? ['kms:Decrypt'] : [])];
    const rights = (keyStatements.get(role) ?? []).filter(({ Resource }) => Resource === key);
    return needed.some(action => !rights.some(({ Action }) => Action.includes(action)));
  };
  const aws = { sessionMs: null as number | null, port: gateway.port };
  const front = https.createServer(pem, (request, response) => {
    handle(request, response).catch(() => response.destroy());
  });
  const handle = async (request: http.IncomingMessage, response: http.ServerResponse) => {
    const { method = '', url = '', headers } = request;
    const host = headers.host ?? '';
    const [, accessKeyId = ''] = /Credential=([^/]+)/.exec(headers.authorization ?? '') ?? [];
    const body = host === stsHost ? await text(request) : null;
    const form = body === null ? null : new URLSearchParams(body);
    requests.push({ host, method, path: url, accessKeyId, form });
    if (lacksKeyRight(accessKeyId, request)) {
      await text(request);
      response.writeHead(403, { 'content-type': 'application/xml' });
      response.end('<Error><Code>AccessDenied</Code><Message>refused</Message></Error>');
      return;
    }
    const forwarded = http.request({
      ...{ host: '127.0.0.1', port: aws.port, method, path: url, headers, agent: false },
    });
    const [[answer]] = await Promise.all([
      once(forwarded, 'response') as Promise<[http.IncomingMessage]>,
      pipeline(body === null ? request : [body], forwarded),
    ]);
    if (form === null) {
      response.writeHead(answer.statusCode ?? 502, answer.rawHeaders);
      return await pipeline(answer, response);
    }
    const demanded = externalIds.get(form.get('RoleArn') ?? '');
    const isRefused = demanded !== undefined && form.get('ExternalId') !== demanded;
    const [status, document] = stsAnswer(answer.statusCode ?? 502, await text(answer), isRefused);
    const secrets = document.matchAll(/<(?:SecretAccessKey|SessionToken)>([^<]+)/g);
    for (const [, secret = ''] of secrets) registerSecret(secret);
    const [, session] = /<AccessKeyId>([^<]+)/.exec(document) ?? [];
    if (session !== undefined) roleOfSession.set(session, form.get('RoleArn') ?? '');
    response.writeHead(status, { 'content-type': 'text/xml' });
    response.end(
      aws.sessionMs === null
        ? document
        : document.replace(
            /(<Expiration>)[^<]*/,
            `$1${new Date(Date.now() + aws.sessionMs).toISOString()}`,
          ),
    );
  };
  const address = ownAddress();
  front.listen(443, address);
  await once(front, 'listening');
  t.teardown(async () => {
    front.close();
    front.closeAllConnections();
    await once(front, 'close');
  });

  const resolve = lookupOf(address);
  const roles = createRoles({ region: 'us-east-1', resolve, extraCa: pem.cert });
  t.teardown(async () => roles.destroy());
  const clientEnvironment = { allowlist: loopback, resolve, extraCa: pem.cert, roles };
  const destination: Destination = {
    provider: 'aws',
    bucket: `acme-${randomBytes(6).toString('hex')}`,
    region: 'us-east-1',
    key: 'exports',
    endpoint: null,
  };
  const owner = createS3Client(destination, customer, clientEnvironment, runTimeouts);
  await owner.send(new CreateBucketCommand({ Bucket: destination.bucket }));
  owner.destroy();
  return Object.assign(aws, {
    clientEnvironment,
    variables: {
      TEST_AWS_ADDRESS: address,
      NODE_EXTRA_CA_CERTS: path.join(directory, 'front.crt'),
      AWS_ASSUME_ROLE: 'true',
      AWS_REGION: 'us-east-1',
      AWS_ACCESS_KEY_ID: operator.accessKeyId,
      AWS_SECRET_ACCESS_KEY: operator.secretAccessKey,
    },
    gateway,
    requests,
    operator: keyOf(operator),
    operatorAccount: operator.account,
    customer: keyOf(customer),
    customerAccount: customer.account,
    destination,
    externalIds,
    keyStatements,
    createRole: async (
      statements: readonly object[],
      trust: readonly TrustStatement[] = [trustOf(operator.account)],
    ) => {
      const name = `role-${randomBytes(6).toString('hex')}`;
      const role = [`--tenant=${customer.account}`, `--role-name=${name}`];
      const trusting = trust.map(({ Condition: _condition, ...statement }) => statement);
      const trustPolicy = `--assume-role-policy-doc=${policy(trusting)}`;
      await radosgwAdmin('role', 'create', ...role, '--path=/', trustPolicy);
      const ofBuckets = statements.filter(statement => !isKeyStatement(statement));
      const rights = ['--policy-name=p', `--policy-doc=${policy(ofBuckets)}`];
      await radosgwAdmin('role-policy', 'put', ...role, ...rights);
      const arn = `arn:aws:iam::${customer.account}:role/${name}`;
      keyStatements.set(arn, statements.filter(isKeyStatement));
      const demanded = trust.map(({ Condition }) => Condition?.StringEquals['sts:ExternalId']);
      for (const externalId of demanded) if (externalId) externalIds.set(arn, externalId);
      return arn;
    },
  });
}

/** Returns a copy without the account. The SDK adds members to the object that it receives. */
function keyOf({ accessKeyId, secretAccessKey }: Credentials): Credentials {
  return { accessKeyId, secretAccessKey };
}

function policy(Statement: readonly object[]): string {
  return JSON.stringify({ Version: '2012-10-17', Statement });
}

/** Tells the gateways that these names are not those of buckets. */
async function nameHosts(directory: string): Promise<void> {
  const group = JSON.parse(await radosgwAdmin('zonegroup', 'get'));
  if (hostNames.every(name => group.hostnames.includes(name))) return;
  const file = path.join(directory, 'zonegroup.json');
  fs.writeFileSync(file, JSON.stringify({ ...group, hostnames: hostNames }));
  await radosgwAdmin('zonegroup', 'set', `--infile=${file}`);
}

async function createCertificate(directory: string): Promise<{ cert: string; key: string }> {
  const [cert, key] = ['front.crt', 'front.key'].map(name => path.join(directory, name)) as [
    string,
    string,
  ];
  const names = `subjectAltName=DNS:*.${s3Host},${hostNames.map(name => `DNS:${name}`).join()}`;
  const subject = ['-days', '2', '-subj', '/CN=front', '-addext', names];
  const files = ['-keyout', key, '-out', cert];
  await promisify(execFile)('openssl', [
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'],
    ...subject,
    ...files,
  ]);
  return { cert: fs.readFileSync(cert, 'utf8'), key: fs.readFileSync(key, 'utf8') };
}

function account(): string {
  return `${randomInt(1e5, 1e6)}${randomInt(1e5, 1e6)}`;
}

function keyPair(): Credentials {
  return {
    accessKeyId: `AKIATEST${randomBytes(6).toString('hex').toUpperCase()}`,
    secretAccessKey: registerSecret(randomBytes(20).toString('hex')),
  };
}

/** Creates an account with one user. A tenant of the gateway is an account. */
async function createAccount(user: Credentials & { account: string }): Promise<void> {
  const keys = [`--access-key=${user.accessKeyId}`, `--secret-key=${user.secretAccessKey}`];
  const names = [`--tenant=${user.account}`, '--uid=user', '--display-name=user'];
  await radosgwAdmin('user', 'create', ...names, ...keys);
}

const codesOfSts: Readonly<Record<string, string>> = {
  NoSuchEntity: 'AccessDenied',
  InvalidAccessKeyId: 'InvalidClientTokenId',
};

function stsAnswer(status: number, document: string, isRefused: boolean): [number, string] {
  if (status === 200 && !isRefused) return [status, document];
  const [, told = 'InternalFailure'] = /<Code>([^<]*)/.exec(document) ?? [];
  const code = status === 200 ? 'AccessDenied' : (codesOfSts[told] ?? told);
  const error = `<Error><Type>Sender</Type><Code>${code}</Code><Message>refused</Message></Error>`;
  const namespace = 'https://sts.amazonaws.com/doc/2011-06-15/';
  return [
    code === 'AccessDenied' ? 403 : status,
    `<ErrorResponse xmlns="${namespace}">${error}<RequestId>1</RequestId></ErrorResponse>`,
  ];
}
