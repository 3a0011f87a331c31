import { type Aws, trustOf } from '../helpers/aws.ts';
import { freshPrefix, s3Server } from '../helpers/s3.ts';
import { registerSecret } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { throughOutages, type World } from './world.ts';

/** Buckets of the configs: one for access keys, and one of another account for roles. */

const folderOfRoles = 'roles/';

export const usesRole = (key: string) => key.startsWith(folderOfRoles);

/** Returns the bucket of an object, as the owner of the other bucket names it. */
export function bucketOf({ aws }: World, key: string): string {
  if (aws === null || !usesRole(key)) return s3Server().bucket;
  return `${aws.customerAccount}:${aws.destination.bucket}`;
}

/** Returns the folder of a new config with an access key, and its fields in a body. */
export function withAccessKey({ storage }: World) {
  const { bucket, region, users } = s3Server();
  const { accessKeyId, secretAccessKey } = users.full;
  const { endpoint } = storage;
  const key = freshPrefix();
  const place = { provider: 'custom', endpoint, bucket, region, key };
  return { key, body: { ...place, accessKeyId, secretAccessKey } };
}

/** Returns the folder of a new config with a role, and its fields in a body. */
export async function withRole(world: World, aws: Aws, environmentId: string) {
  const key = `${folderOfRoles}${freshPrefix()}`;
  const bucketUrl = `https://${aws.destination.bucket}.s3.us-east-1.amazonaws.com/${key}`;
  const { roleArns } = world;
  const roleArn = roleArns.get(environmentId) ?? (await createRole(world, aws, environmentId));
  roleArns.set(environmentId, roleArn);
  return { key, body: { provider: 'aws', bucketUrl, roleArn } };
}

/** Creates a role that the service may assume for the environment. @returns its ARN */
async function createRole({ call }: World, aws: Aws, environmentId: string): Promise<string> {
  const externalId = await waitFor(
    'the external id',
    async () => {
      const { status, json } = await call('elder api', `/v1/environments/${environmentId}`);
      if (status !== 200) throw new Error(`${status}`);
      return registerSecret(json.externalId);
    },
    throughOutages,
  );
  const bucket = `arn:aws:s3:::${aws.destination.bucket}`;
  const ofBucket = ['s3:ListBucket', 's3:ListBucketMultipartUploads'];
  const ofObjects = ['s3:PutObject', 's3:AbortMultipartUpload', 's3:DeleteObject'];
  const rights = [
    { Effect: 'Allow', Action: ofBucket, Resource: bucket },
    { Effect: 'Allow', Action: ofObjects, Resource: `${bucket}/${folderOfRoles}*` },
  ];
  const Condition = { StringEquals: { 'sts:ExternalId': externalId } };
  return await aws.createRole(rights, [{ ...trustOf(aws.operatorAccount), Condition }]);
}
