import fs from 'node:fs';
import { CreateBucketCommand, CreateMultipartUploadCommand } from '@aws-sdk/client-s3';
import t, { type Test } from 'tap';
import type { Access } from '../../src/destinations/destination.ts';
import { abortOrphanedUploads } from '../../src/destinations/s3/abort-upload.ts';
import { createS3Client, runPatience } from '../../src/destinations/s3/client.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import type { TestApp } from '../helpers/app.ts';
import { needsPort443, startAws, type TrustStatement } from '../helpers/aws.ts';
import {
  configBody,
  makeConfig,
  runReader,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import {
  createUser,
  freshPrefix,
  needsS3,
  type PolicyStatement,
  s3Client,
  setPolicy,
} from '../helpers/s3.ts';

/**
 * Reads the policies from the guides and gives users and roles of Ceph exactly these rights.
 * Uploads with a KMS key show that S3 needs no other right for them.
 */

t.setTimeout(120_000);

const readGuide = (name: string) =>
  fs.readFileSync(new URL(`../../docs/${name}`, import.meta.url), 'utf8');
const userGuide = readGuide('destinations.md');
const roleGuide = readGuide('guides/aws-role.md');

/** Returns the JSON after a mark in a guide, with other names instead of those of the guide. */
function read(guide: string, mark: string, names: Readonly<Record<string, string>>) {
  const [, after = ''] = guide.split(`<!-- test: ${mark} -->`);
  const [, text = ''] = /```json\n(.*?)```/s.exec(after) ?? [];
  return JSON.parse(rename(text, names));
}

function rename(text: string, names: Readonly<Record<string, string>>): string {
  return Object.entries(names).reduce((renamed, [from, to]) => renamed.replaceAll(from, to), text);
}

/** Returns the rights that a guide names in a sentence or a table, such as `s3:x` on `arn:y`. */
function rightsIn(guide: string, names: Readonly<Record<string, string>>): PolicyStatement[] {
  return [...rename(guide, names).matchAll(/`(s3:\w+)` on\s+`(arn:aws:s3:[^`]+)`/g)].map(
    ([, action = '', Resource = '']) => ({ Effect: 'Allow', Action: [action], Resource }),
  );
}

const startRun = async (app: TestApp, id: string) => {
  const path = `/v1/environments/acme/export-configs/${id}/runs`;
  const { json } = await app.call(path, { method: 'POST' });
  return await runReader(app, 'acme').finished(json.id);
};

/** Runs a config twice, because only the second run replaces an object and its manifest. */
async function runTwice(t: Test, app: TestApp, body: object) {
  const { id } = await makeConfig(app, 'acme', body);
  t.match(await startRun(app, id), { state: 'successful' }, 'the first run');
  return await startRun(app, id);
}

t.test('exports with the policy that the guide gives a user', needsS3, async t => {
  const app = await startExportApp(t);
  await app.putEnvironment('acme');
  await app.ingest('acme', '2026-03-01', ingestBody([adoptionRow()]));
  startExportWorker(t, app);
  const owner = s3Client('full');
  const bucket = freshPrefix();
  await owner.send(new CreateBucketCommand({ Bucket: bucket }));
  owner.destroy();
  const { uid, ...credentials } = await createUser();
  const names = { 'acme-exports': bucket };
  const least: PolicyStatement[] = read(userGuide, 'least-policy', names).Statement;
  const ofManifests = rightsIn(userGuide, names);
  t.strictSame(
    ofManifests.map(({ Action }) => Action),
    [['s3:DeleteObject']],
  );
  const body = (key: string, manifest: boolean) =>
    configBody('full', { ...credentials, bucket, key: `company-adoption/${key}`, manifest });

  await setPolicy(bucket, uid, least);
  t.match(await runTwice(t, app, body('plain', false)), { state: 'successful' });
  t.match(
    await runTwice(t, app, body('denied', true)),
    { state: 'failed', error: { code: 'write_denied' } },
    'a manifest cannot be replaced without its right',
  );
  await setPolicy(bucket, uid, [...least, ...ofManifests]);
  t.match(await runTwice(t, app, { ...body('', true), key: 'company-adoption' }), {
    state: 'successful',
  });
});

const needsAws = { ...needsS3, ...(await needsPort443()) };

// The statement for a KMS key is not tried, because Ceph refuses `kms:` actions.
t.test('exports with the policies that the guide gives a role', needsAws, async t => {
  const aws = await startAws(t, [
    '--rgw-crypt-s3-kms-backend=testing',
    `--rgw-crypt-s3-kms-encryption-keys=testkey-1=${Buffer.alloc(32, 7).toString('base64')}`,
    '--rgw-crypt-require-ssl=false',
  ]);
  const { destination, clientEnvironment, operator } = aws;
  process.env['AWS_ACCESS_KEY_ID'] = operator.accessKeyId;
  process.env['AWS_SECRET_ACCESS_KEY'] = operator.secretAccessKey;
  const app = await startExportApp(t, {
    env: { AWS_ASSUME_ROLE: 'true' },
    adjust: made => ({ ...made, clientEnvironment }),
  });
  await app.putEnvironment('acme');
  await app.ingest('acme', '2026-03-01', ingestBody([adoptionRow()]));
  startExportWorker(t, app);
  const { externalId } = (await app.call('/v1/environments/acme')).json;
  const { bucket } = destination;
  const names = {
    'acme-exports': bucket,
    999999999999: aws.operatorAccount,
    '2f1c7e0a-6f0d-4a55-9d0e-0c6a1c5d7b11': externalId,
  };
  const trust: TrustStatement[] = read(roleGuide, 'trust-policy', names).Statement;
  const least: PolicyStatement[] = read(roleGuide, 'role-policy', names).Statement;
  const others = rightsIn(roleGuide, names);
  t.strictSame(
    others.map(({ Action }) => Action),
    [['s3:DeleteObject'], ['s3:ListBucketMultipartUploads']],
  );
  const [bare, complete] = await Promise.all([
    aws.createRole(least, trust),
    aws.createRole([...least, ...others], trust),
  ]);
  const body = (roleArn: string, key: string) => ({
    name: 'Nightly',
    schedule: 'daily',
    provider: 'aws',
    bucketUrl: `https://${bucket}.s3.us-east-1.amazonaws.com/company-adoption${key}`,
    roleArn,
    manifest: true,
    encryption: { type: 'aws:kms', kmsKeyId: 'testkey-1' },
  });
  t.match(
    await runTwice(t, app, body(bare, '/denied')),
    { state: 'failed', error: { code: 'write_denied' } },
    'a manifest cannot be replaced without its right',
  );
  t.match(await runTwice(t, app, body(complete, '')), { state: 'successful' });

  const key = 'company-adoption/hidden.csv';
  const connect = (access: Access) => {
    const client = createS3Client(destination, access, clientEnvironment, runPatience);
    t.teardown(() => client.destroy());
    return client;
  };
  await connect(aws.customer).send(new CreateMultipartUploadCommand({ Bucket: bucket, Key: key }));
  const abort = (roleArn: string) => {
    const client = connect({ roleArn, externalId });
    return abortOrphanedUploads(client, destination, key, [], new AbortController().signal);
  };
  t.equal(await abort(bare), null, 'hidden uploads cannot be listed without their right');
  t.equal(await abort(complete), 1, 'removes an upload that a lost answer hides');
});
