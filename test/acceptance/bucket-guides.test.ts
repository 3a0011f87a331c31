import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import {
  CreateBucketCommand,
  DeleteBucketCommand,
  DeleteObjectCommand,
  PutBucketNotificationConfigurationCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import { DuckDBInstance } from '@duckdb/node-api';
import { createClient } from '@warehouse-export/client';
import t, { type Test } from 'tap';
import { type AdoptionRow, adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import {
  configBody,
  makeConfig,
  runReader,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import { needsProgram } from '../helpers/programs.ts';
import {
  contentsOf,
  needsS3,
  readObject,
  s3Client,
  s3Destination,
  s3Server,
} from '../helpers/s3.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { startWebhookReceiver } from '../helpers/webhook-receiver.ts';

/**
 * The guides on external tables and on event notifications, with a real export into a bucket that
 * notifies. DuckDB runs the SQL. The S3 server (Ceph) takes the filter of Amazon S3 and sends the
 * events by HTTP.
 */

t.setTimeout(120_000);

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
    adoptionRow({ companyId: 'c1', segmentNames: ['All', 'Paying, EU'], segmentIds: ['s1', 's2'] }),
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
    for (const Key of objects) await client.send(new DeleteObjectCommand({ Bucket: bucket, Key }));
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

t.test('the guides for buckets', { ...needsProgram('curl'), ...needsS3 }, async t => {
  const receiver = await startWebhookReceiver(t);
  const bucket = await createNotifyingBucket(t, s3Client('full'), receiver.url);
  const app = await startExportApp(t, { now: '2026-03-03T10:00:00.000Z' });
  const environmentId = 'acme';
  await app.putEnvironment(environmentId);
  const body = configBody('full', { bucket, key: 'exports/date={date}', manifest: true });
  const configs = [
    await makeConfig(app, environmentId, body),
    await makeConfig(app, environmentId, { ...body, format: 'parquet', manifest: false }),
  ];
  startExportWorker(t, app);
  const { finished } = runReader(app, environmentId);
  const client = createClient({ baseUrl: app.origin, token: testAdminToken });
  for (const [snapshotDate, rows] of Object.entries(snapshots)) {
    await client.uploadSnapshot({ environmentId, date: snapshotDate, body: ingestBody(rows) });
    const started = await Promise.all(
      configs.map(({ id }) =>
        client.api.startRun({ path: { environmentId, configId: id }, body: { snapshotDate } }),
      ),
    );
    for (const { id } of started) t.match(await finished(id), { state: 'successful' });
  }
  const { objects } = await contentsOf(s3Destination({ bucket, key: '' }));
  t.equal(objects.length, 9, 'each day has two objects and a manifest');

  await t.test('notify once for each manifest, which names its object', async t => {
    const events = (await receiver.count(3)).flatMap(message => message.json.Records);
    const keys = events.map(({ s3 }) => s3.object.key);
    const manifests = objects.filter(key => key.includes('/_manifest/'));
    t.strictSame(keys.toSorted(), manifests);
    for (const key of manifests) {
      const manifest = JSON.parse((await readObject(bucket, key)).body.toString());
      t.ok(objects.includes(manifest.objectKey));
    }
  });

  await t.test('read one folder for each day with DuckDB', async t => {
    const directory = t.testdir({});
    for (const key of objects) {
      const target = path.join(directory, key);
      fs.mkdirSync(path.dirname(target), { recursive: true });
      fs.writeFileSync(target, (await readObject(bucket, key)).body);
    }
    const instance = await DuckDBInstance.create(':memory:');
    const duckdb = await instance.connect();
    t.teardown(() => {
      duckdb.closeSync();
      instance.closeSync();
    });
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
});
