import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import {
  CreateBucketCommand,
  CreateMultipartUploadCommand,
  DeleteBucketCommand,
  DeleteObjectCommand,
  PutBucketNotificationConfigurationCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import { createClient } from '@warehouse-export/client';
import t, { type Test } from 'tap';
import type { Access } from '../../src/destinations/destination.ts';
import { abortOrphanedUploads } from '../../src/destinations/s3/abort-upload.ts';
import { createS3Client, runTimeouts } from '../../src/destinations/s3/client.ts';
import { type AdoptionRow, adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { type KeyStatement, needsPort443, startAws, type TrustStatement } from '../helpers/aws.ts';
import {
  configBody,
  makeConfig,
  runReader,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import { needsProgram } from '../helpers/programs.ts';
import { openDuckDb } from '../helpers/read-parquet.ts';
import {
  contentsOf,
  createBucket,
  needsS3,
  type PolicyStatement,
  readObject,
  s3Client,
  s3Destination,
  s3Server,
  setPolicy,
} from '../helpers/s3.ts';
import { kmsOptions } from '../helpers/s3-gateway.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { startWebhookReceiver } from '../helpers/webhook-receiver.ts';

/**
 * Reads the policies from the guides and gives users and roles of Ceph exactly these rights.
 * A stand-in checks the statement for a KMS key: see `startAws`.
 */

t.setTimeout(600_000);

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

const needsAws = { ...needsS3, ...(await needsPort443()) };
const aws = needsAws.skip === undefined ? await startAws(t, kmsOptions) : null;
const app = await startExportApp(t, {
  env: { AWS_ASSUME_ROLE: 'true' },
  adjust: made => (aws === null ? made : { ...made, clientEnvironment: aws.clientEnvironment }),
});
const worker = startExportWorker(t, app);
await app.putEnvironment('acme');
await app.ingest('acme', '2026-03-01', ingestBody([adoptionRow()]));

const startRun = async (id: string) => {
  const path = `/v1/environments/acme/export-configs/${id}/runs`;
  const { json } = await app.call(path, { method: 'POST' });
  worker.wake();
  return await runReader(app, 'acme').finished(json.id);
};

/** Runs a config twice, because only the second run replaces an object and its manifest. */
async function runTwice(t: Test, body: object) {
  const { id } = await makeConfig(app, 'acme', body);
  t.match(await startRun(id), { state: 'successful' }, 'the first run');
  return await startRun(id);
}

t.test('exports with the policy that the guide gives a user', needsS3, async t => {
  const { bucket } = await createBucket(t);
  const uid = 'nothing';
  const names = { 'acme-exports': bucket };
  const least: PolicyStatement[] = read(userGuide, 'least-policy', names).Statement;
  const ofManifests = rightsIn(userGuide, names);
  t.strictSame(
    ofManifests.map(({ Action }) => Action),
    [['s3:DeleteObject']],
  );
  const body = (key: string, manifest: boolean) =>
    configBody(uid, { bucket, key: `company-adoption/${key}`, manifest });

  await setPolicy(bucket, uid, least);
  t.match(await runTwice(t, body('plain', false)), { state: 'successful' });
  t.match(
    await runTwice(t, body('denied', true)),
    { state: 'failed', error: { code: 'write_denied' } },
    'a manifest cannot be replaced without its right',
  );
  await setPolicy(bucket, uid, [...least, ...ofManifests]);
  t.match(await runTwice(t, { ...body('', true), key: 'company-adoption' }), {
    state: 'successful',
  });
});

t.test('exports with the policies that the guide gives a role', needsAws, async t => {
  if (aws === null) throw new Error('a test without its options asked for AWS');
  const { destination, clientEnvironment, operator, keyStatements } = aws;
  t.teardown(() => {
    delete process.env['AWS_ACCESS_KEY_ID'];
    delete process.env['AWS_SECRET_ACCESS_KEY'];
  });
  process.env['AWS_ACCESS_KEY_ID'] = operator.accessKeyId;
  process.env['AWS_SECRET_ACCESS_KEY'] = operator.secretAccessKey;
  const { externalId } = (await app.call('/v1/environments/acme')).json;
  const { bucket } = destination;
  const names = {
    'acme-exports': bucket,
    999999999999: aws.operatorAccount,
    '2f1c7e0a-6f0d-4a55-9d0e-0c6a1c5d7b11': externalId,
    'arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab': 'testkey-1',
  };
  const trust: TrustStatement[] = read(roleGuide, 'trust-policy', names).Statement;
  const least: PolicyStatement[] = read(roleGuide, 'role-policy', names).Statement;
  const others = rightsIn(roleGuide, names);
  t.strictSame(
    others.map(({ Action }) => Action),
    [['s3:DeleteObject'], ['s3:ListBucketMultipartUploads']],
  );
  const ofKey: KeyStatement = read(roleGuide, 'key-statement', names);
  const ofUploads = { ...ofKey, Action: ofKey.Action.filter(action => action !== 'kms:Decrypt') };
  const [bare, complete] = await Promise.all([
    aws.createRole([...least, ofKey], trust),
    aws.createRole([...least, ofKey, ...others], trust),
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
  for (const rights of [[], [ofUploads]]) {
    keyStatements.set(bare, rights);
    const path = '/v1/environments/acme/export-configs';
    const { status, json } = await app.call(path, { method: 'POST', json: body(bare, '/key') });
    t.equal(status, 422);
    t.equal(json.storageError?.code, 'encryption_denied');
  }
  keyStatements.set(bare, [ofKey]);
  t.match(
    await runTwice(t, body(bare, '/denied')),
    { state: 'failed', error: { code: 'write_denied' } },
    'a manifest cannot be replaced without its right',
  );
  t.match(await runTwice(t, body(complete, '')), { state: 'successful' });

  const key = 'company-adoption/hidden.csv';
  const connect = (access: Access) => {
    const client = createS3Client(destination, access, clientEnvironment, runTimeouts);
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

/**
 * The guides on external tables and on event notifications, with a real export into a bucket that
 * notifies. DuckDB runs the SQL. The S3 server (Ceph) takes the filter of Amazon S3 and sends the
 * events by HTTP.
 */
t.test('sets buckets up as the guides say', async t => {
  t.setTimeout(600_000);

  const readGuide = (name: string) =>
    fs.readFileSync(path.join(import.meta.dirname, '../../docs/guides', name), 'utf8');
  const blocksOf = (mark: string): string[] =>
    readGuide('external-tables.md')
      .split(`<!-- test: ${mark} -->\n\`\`\`sql\n`)
      .slice(1)
      .map(text => text.slice(0, text.indexOf('\n```\n')));
  const [csvView = '', question = ''] = blocksOf('duckdb');
  const [parquetView = ''] = blocksOf('duckdb parquet');
  const [, filter = ''] =
    /^<!-- test: filter -->\n```json\n(.*?)^```$/ms.exec(readGuide('event-notifications.md')) ?? [];

  const snapshots: Readonly<Record<string, readonly AdoptionRow[]>> = {
    '2026-02-28': [adoptionRow()],
    '2026-03-01': [
      adoptionRow({
        companyId: 'c1',
        segmentNames: ['All', 'Paying, EU'],
        segmentIds: ['s1', 's2'],
      }),
      adoptionRow({ companyId: 'c1', featureId: 'f2', companyName: 'two\nlines, "quoted"' }),
      adoptionRow({ companyId: 'c2', companyName: '', satisfaction: 4, feedbackCount: 7 }),
    ],
    '2026-03-02': [adoptionRow({ companyId: 'c3', companyName: null, starsState: 3 })],
  };

  /** Creates a topic whose messages go to the URL. @returns its ARN */
  async function createTopic(name: string, url: string): Promise<string> {
    const { endpoint, region, users } = s3Server();
    const { accessKeyId, secretAccessKey } = users.full;
    const { stdout } = await promisify(execFile)('curl', [
      ...[
        '-sS',
        '--aws-sigv4',
        `aws:amz:${region}:sns`,
        '--user',
        `${accessKeyId}:${secretAccessKey}`,
      ],
      ...['-d', 'Action=CreateTopic', '-d', `Name=${name}`],
      ...['-d', 'Attributes.entry.1.key=push-endpoint'],
      ...['--data-urlencode', `Attributes.entry.1.value=${url}`, endpoint],
    ]);
    const [, arn] = /<TopicArn>(.*?)<\/TopicArn>/.exec(stdout) ?? [];
    if (arn === undefined) throw new Error(`no topic: ${stdout}`);
    return arn;
  }

  /** Creates a bucket that sends the events of the guide's filter to the URL. */
  async function createNotifyingBucket(t: Test, client: S3Client, url: string): Promise<string> {
    const bucket = `guides-${randomBytes(6).toString('hex')}`;
    await client.send(new CreateBucketCommand({ Bucket: bucket }));
    t.teardown(async () => {
      const { objects } = await contentsOf(s3Destination({ bucket, key: '' }));
      for (const Key of objects)
        await client.send(new DeleteObjectCommand({ Bucket: bucket, Key }));
      await client.send(new DeleteBucketCommand({ Bucket: bucket }));
      client.destroy();
    });
    const [{ QueueArn: _arn, ...events }] = JSON.parse(filter).QueueConfigurations;
    const topic = { Id: 'exports', TopicArn: await createTopic(bucket, url), ...events };
    await client.send(
      new PutBucketNotificationConfigurationCommand({
        Bucket: bucket,
        NotificationConfiguration: { TopicConfigurations: [topic] },
      }),
    );
    return bucket;
  }

  t.test(
    'the guides for buckets hold for a real bucket',
    { ...needsProgram('curl'), ...needsS3 },
    async t => {
      const receiver = await startWebhookReceiver(t);
      const bucket = await createNotifyingBucket(t, s3Client('full'), receiver.url);
      const environmentId = 'guides';
      await app.putEnvironment(environmentId);
      const body = configBody('full', { bucket, key: 'exports/date={date}', manifest: true });
      const configs = [
        await makeConfig(app, environmentId, body),
        await makeConfig(app, environmentId, { ...body, format: 'parquet', manifest: false }),
      ];
      const { finished } = runReader(app, environmentId);
      const client = createClient({ baseUrl: app.origin, token: testAdminToken });
      for (const [snapshotDate, rows] of Object.entries(snapshots)) {
        await client.uploadSnapshot({ environmentId, date: snapshotDate, body: ingestBody(rows) });
        const started = await Promise.all(
          configs.map(({ id }) =>
            client.api.startRun({ path: { environmentId, configId: id }, body: { snapshotDate } }),
          ),
        );
        worker.wake();
        for (const { id } of started) t.match(await finished(id), { state: 'successful' });
      }
      const { objects } = await contentsOf(s3Destination({ bucket, key: '' }));
      t.equal(objects.length, 9, 'each day has two objects and a manifest');

      await t.test(
        'the bucket notifies once for each manifest, which names its object',
        async t => {
          const events = (await receiver.count(3)).flatMap(message => message.json.Records);
          const keys = events.map(({ s3 }) => s3.object.key);
          const manifests = objects.filter(key => key.includes('/_manifest/'));
          t.strictSame(keys.toSorted(), manifests);
          for (const key of manifests) {
            const manifest = JSON.parse((await readObject(bucket, key)).body.toString());
            t.ok(objects.includes(manifest.objectKey));
          }
        },
      );

      await t.test('DuckDB reads one folder for each day', async t => {
        const directory = t.testdir({});
        for (const key of objects) {
          const target = path.join(directory, key);
          fs.mkdirSync(path.dirname(target), { recursive: true });
          fs.writeFileSync(target, (await readObject(bucket, key)).body);
        }
        const { connection: duckdb, close } = await openDuckDb();
        t.teardown(close);
        const ask = async (sql: string) => (await duckdb.runAndReadAll(sql)).getRowObjectsJson();
        for (const createView of [csvView, parquetView]) {
          t.match(createView, "'s3://acme-exports/exports/");
          await duckdb.run('drop view if exists company_adoption');
          await duckdb.run(createView.replace('s3://acme-exports/', `${directory}/`));
          t.strictSame(await ask(question), [
            { date: '2026-03-01', rows: '3', companies: '2' },
            { date: '2026-03-02', rows: '1', companies: '1' },
          ]);
          t.strictSame(
            await ask(
              `select date::text as date, company_name, satisfaction, segment_ids, first_used is null as unused
           from company_adoption order by date, company_id, feature_id`,
            ),
            Object.entries(snapshots).flatMap(([date, rows]) =>
              rows.map(row => ({
                date,
                company_name: row.companyName,
                satisfaction: row.satisfaction,
                segment_ids: row.segmentIds,
                unused: true,
              })),
            ),
          );
          const day = `select * from company_adoption where date = date '2026-03-02'`;
          const plan = await duckdb.runAndReadAll(`explain analyze ${day}`);
          t.match(
            plan.getRows().flat().join(''),
            /Total Files Read: 1\b/,
            'reads no file of other days',
          );
        }
      });
    },
  );
});
