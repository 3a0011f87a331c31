/** Access to the real S3 server of the tests, its users and its objects. */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { promisify } from 'node:util';
import {
  CreateBucketCommand,
  GetObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutBucketPolicyCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import type { S3Server, S3User } from '../../dev/s3-server.ts';
import type { Credentials, Destination } from '../../src/destinations/destination.ts';
import { createS3Client, runTimeouts } from '../../src/destinations/s3/client.ts';
import {
  type EndpointAllowlist,
  parseEndpointAllowlist,
} from '../../src/outbound/endpoint-allowlist.ts';
import { registerSecret } from './secrets.ts';

/** Server that `test/run.ts` started, or null. */
export const s3: S3Server | null = process.env['TEST_S3']
  ? JSON.parse(process.env['TEST_S3'])
  : null;

/** Options of a test that needs the S3 server. Without one, the test is listed as skipped. */
export const needsS3 = s3 === null ? { skip: 'no S3 server: TEST_S3 is not set' } : {};

/** Opens the loopback addresses on which test servers listen. */
export const loopback: EndpointAllowlist = parseEndpointAllowlist(['127.0.0.1']);

export function s3Server(): S3Server {
  if (s3 === null) throw new Error('a test without `needsS3` asked for the S3 server');
  return s3;
}

/** Returns a folder that no other test uses. */
export function freshPrefix(): string {
  return `t-${randomBytes(8).toString('hex')}`;
}

export function s3Destination(overrides: Partial<Destination> = {}): Destination {
  const { endpoint, bucket, region } = s3Server();
  return { provider: 'custom', endpoint, bucket, region, key: freshPrefix(), ...overrides };
}

export function s3Client(
  user: S3User | Credentials,
  destination: Destination = s3Destination(),
): S3Client {
  const credentials = typeof user === 'string' ? s3Server().users[user] : user;
  return createS3Client(destination, credentials, { allowlist: loopback }, runTimeouts);
}

/**
 * Creates a bucket that no other test uses.
 *
 * @param options `user`: the owner, by default `full`; `isLocked`: true for Object Lock
 * @returns its name, and a client of the owner that the teardown destroys
 */
export async function createBucket(
  t: { teardown(handler: () => void): void },
  {
    user = 'full',
    isLocked = false,
  }: { readonly user?: S3User | Credentials; readonly isLocked?: boolean } = {},
): Promise<{ bucket: string; owner: S3Client }> {
  const bucket = freshPrefix();
  const owner = s3Client(user);
  t.teardown(() => owner.destroy());
  await owner.send(
    new CreateBucketCommand({ Bucket: bucket, ObjectLockEnabledForBucket: isLocked }),
  );
  return { bucket, owner };
}

/** Runs `radosgw-admin`, for users and their keys. */
export async function radosgwAdmin(...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)('radosgw-admin', [
    '-c',
    s3Server().confFile,
    ...args,
  ]);
  return stdout;
}

/** Creates a user without rights, for a test that suspends it or revokes its key. */
export async function createUser(): Promise<{ uid: string } & Credentials> {
  const uid = `user-${randomBytes(6).toString('hex')}`;
  const accessKeyId = `AKIATEST${randomBytes(6).toString('hex').toUpperCase()}`;
  const secretAccessKey = registerSecret(randomBytes(20).toString('hex'));
  const keys = [`--access-key=${accessKeyId}`, `--secret-key=${secretAccessKey}`];
  await radosgwAdmin('user', 'create', `--uid=${uid}`, `--display-name=${uid}`, ...keys);
  return { uid, accessKeyId, secretAccessKey };
}

export interface PolicyStatement {
  readonly Effect: 'Allow' | 'Deny';
  readonly Action: readonly string[];
  readonly Resource: string | readonly string[];
  readonly Condition?: object;
}

/**
 * Sets the rights of a user on a bucket, as an IAM policy does. Removes all other rights.
 *
 * @param owner client of the owner of the bucket, which is destroyed. Default: a client of `full`
 */
export async function setPolicy(
  bucket: string,
  uid: string,
  statements: readonly PolicyStatement[],
  owner = independentClient(),
): Promise<void> {
  const Principal = { AWS: [`arn:aws:iam:::user/${uid}`] };
  const Statement = statements.map(statement => ({ ...statement, Principal }));
  const Policy = JSON.stringify({ Version: '2012-10-17', Statement });
  await owner.send(new PutBucketPolicyCommand({ Bucket: bucket, Policy }));
  owner.destroy();
}

/** Returns the keys of objects and of unfinished uploads under a prefix. */
export async function contentsOf({
  bucket,
  key,
}: Destination): Promise<{ objects: string[]; unfinished: string[] }> {
  const client = independentClient();
  const listed = await client.send(new ListObjectsV2Command({ Bucket: bucket, Prefix: key }));
  const uploads = await client.send(
    new ListMultipartUploadsCommand({ Bucket: bucket, Prefix: key }),
  );
  client.destroy();
  return {
    objects: (listed.Contents ?? []).map(object => object.Key ?? ''),
    unfinished: (uploads.Uploads ?? []).map(upload => upload.Key ?? ''),
  };
}

export interface StoredObject {
  readonly body: Buffer;
  readonly contentType: string | undefined;
  readonly metadata: Record<string, string>;
}

export async function readObject(bucket: string, key: string): Promise<StoredObject> {
  const client = independentClient();
  const object = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key }));
  const bytes = await object.Body?.transformToByteArray();
  client.destroy();
  return {
    body: Buffer.from(bytes ?? []),
    contentType: object.ContentType,
    metadata: object.Metadata ?? {},
  };
}

/** Creates a client without the limits of the service, which reads no objects and no long lists. */
function independentClient(): S3Client {
  const { endpoint, region, users } = s3Server();
  return new S3Client({ endpoint, region, credentials: { ...users.full }, forcePathStyle: true });
}
