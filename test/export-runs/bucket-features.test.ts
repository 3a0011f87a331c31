import { createHash } from 'node:crypto';
import {
  DeleteObjectCommand,
  GetObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  PutObjectLockConfigurationCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import t from 'tap';
import { uploadObject } from '../../src/destinations/s3/upload.ts';
import { mebibyte, uploadRequest } from '../destinations/s3/test-source.ts';
import { adoptionRow, exportHeader, exportPart, ingestBody } from '../helpers/adoption-rows.ts';
import {
  configBody,
  makeConfig,
  runReader,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import {
  contentsOf,
  createBucket,
  createUser,
  freshPrefix,
  needsS3,
  radosgwAdmin,
  readObject,
  s3Destination,
  s3Server,
  setPolicy,
} from '../helpers/s3.ts';
import { startS3Proxy } from '../helpers/s3-proxy.ts';
import { s3Signature } from '../helpers/s3-signature.ts';
import { waitFor } from '../helpers/wait-for.ts';

/** Runs that write to buckets and endpoints with unusual features of the real S3 server. */

const environmentId = 'acme';
const date = '2026-03-02';
const configs = `/v1/environments/${environmentId}/export-configs`;
const app = await startExportApp(t, { now: `${date}T10:00:00.000Z` });
await app.putEnvironment(environmentId);
const runs = runReader(app, environmentId);
let worker: ReturnType<typeof startExportWorker> | null = null;

/** Starts the worker of all tests, or makes it look for jobs. */
function wake(): void {
  worker ??= startExportWorker(t, app);
  worker.wake();
}

/** Replaces the snapshot. Returns the CSV that a run writes. */
async function ingest(companyIds: readonly string[]): Promise<string> {
  const rows = companyIds.map(companyId => adoptionRow({ companyId }));
  const { status, text } = await app.ingest(environmentId, date, ingestBody(rows));
  if (status !== 200 && status !== 201) throw new Error(text);
  return exportHeader + exportPart(rows, date);
}

const post = (path: string, json?: object) =>
  app.call(`${configs}/${path}`, { method: 'POST', ...(json && { json }) });

async function runNow(configId: string) {
  const { json } = await post(`${configId}/runs`);
  wake();
  return await runs.finished(json.id);
}

/** Returns the contents of all versions of an object, newest first, and its delete markers. */
async function versionsOf(owner: S3Client, bucket: string, key: string) {
  const { Versions = [], DeleteMarkers = [] } = await owner.send(
    new ListObjectVersionsCommand({ Bucket: bucket, Prefix: key }),
  );
  const contents = Versions.filter(({ Key }) => Key === key).map(async ({ VersionId }) => {
    const version = { Bucket: bucket, Key: key, VersionId };
    const { Body } = await owner.send(new GetObjectCommand(version));
    return await Body?.transformToString();
  });
  const markers = DeleteMarkers.filter(({ Key }) => Key === key);
  return {
    contents: await Promise.all(contents),
    markers: markers.length,
    isDeleted: markers.some(({ IsLatest }) => IsLatest),
  };
}

t.test('replaces object and manifest in a bucket whose versions are locked', needsS3, async t => {
  // A bucket with Object Lock is always versioned.
  const { bucket, owner } = await createBucket(t, { isLocked: true });
  const DefaultRetention = { Mode: 'COMPLIANCE', Days: 1 } as const;
  const ObjectLockConfiguration = {
    ObjectLockEnabled: 'Enabled',
    Rule: { DefaultRetention },
  } as const;
  const lock = { Bucket: bucket, ObjectLockConfiguration };
  await owner.send(new PutObjectLockConfigurationCommand(lock));
  const first = await ingest(['c1', 'c2']);
  const body = configBody('full', { bucket, manifest: true });
  const { id, key } = await makeConfig(app, environmentId, body);
  const objectKey = `${key}/company-adoption_${environmentId}_${date}.csv`;
  const manifestKey = `${key}/_manifest/company-adoption_${environmentId}_${date}.csv.json`;
  const object = () => versionsOf(owner, bucket, objectKey);
  const manifest = () => versionsOf(owner, bucket, manifestKey);
  t.match(await object(), { contents: [], markers: 0 }, 'the check leaves no version');
  const checkManifest = async (run: { id: string }, csv: string) => {
    const current = JSON.parse((await readObject(bucket, manifestKey)).body.toString());
    const sha256 = createHash('sha256').update(csv).digest('hex');
    t.match(current, { runId: run.id, objectKey, bytes: Buffer.byteLength(csv), sha256 });
  };

  const run = await runNow(id);
  t.match(run, { state: 'successful', rowCount: 2 });
  t.strictSame(await object(), { contents: [first], markers: 0, isDeleted: false });
  t.match(await manifest(), { contents: { length: 1 }, markers: 0, isDeleted: false });
  await checkManifest(run, first);

  const second = await ingest(['c1', 'c2', 'c3']);
  const again = await runNow(id);
  t.match(again, { state: 'successful', attempts: 1, rowCount: 3 });
  t.strictSame(await object(), { contents: [second, first], markers: 0, isDeleted: false });
  t.match(await manifest(), { contents: { length: 2 }, markers: 1, isDeleted: false });
  await checkManifest(again, second);

  // The owner removes both. Their delete markers are no objects that a run must remove.
  for (const Key of [objectKey, manifestKey]) {
    await owner.send(new DeleteObjectCommand({ Bucket: bucket, Key }));
  }
  t.match(await manifest(), { markers: 2, isDeleted: true });
  const third = await runNow(id);
  t.match(third, { state: 'successful', attempts: 1, rowCount: 3 });
  t.match(await object(), { contents: [second, second, first], markers: 1, isDeleted: false });
  t.match(await manifest(), { contents: { length: 3 }, markers: 2, isDeleted: false });
  await checkManifest(third, second);
  t.match((await app.call(`${configs}/${id}/status`)).json, {
    status: 'successful',
    lastDeliveredDate: date,
    error: null,
  });
  t.strictSame(await contentsOf(s3Destination({ bucket, key })), {
    objects: [manifestKey, objectKey],
    unfinished: [],
  });
});

t.test('waits for space when the quota of the account is full', needsS3, async t => {
  const { uid, ...credentials } = await createUser();
  const setQuota = (...options: readonly string[]) =>
    radosgwAdmin('quota', 'enable', `--uid=${uid}`, '--quota-scope=user', ...options);
  await setQuota('--max-objects=1');
  const { bucket, owner } = await createBucket(t, { user: credentials });
  const Resource = [`arn:aws:s3:::${bucket}`, `arn:aws:s3:::${bucket}/*`];
  await setPolicy(bucket, 'full', [{ Effect: 'Allow', Action: ['s3:*'], Resource }], owner);
  await ingest(['c1']);
  const body = { ...configBody('full', { bucket, manifest: true }), ...credentials };
  const { id, key } = await makeConfig(app, environmentId, body);
  const destination = s3Destination({ bucket, key });
  const { json } = await post(`${id}/runs`);
  wake();
  const waiting = await waitFor('the end of the first attempt', () => runs.read(json.id), {
    isWanted: run => run.state === 'queued' && run.attempts === 1,
  });
  const full = {
    code: 'storage_unavailable',
    message: 'The storage or its quota is full (QuotaExceeded).',
    hint: /raise the quota/,
  };
  t.match(waiting.error, full);
  t.match((await app.call(`${configs}/${id}/status`)).json, {
    status: 'never ran before',
    lastDeliveredDate: null,
    currentRun: { id: json.id, waitingFor: 'retry', error: full },
  });
  t.match(await contentsOf(destination), { objects: { length: 1 }, unfinished: [] });
  t.match((await post(`${id}/validate`)).json, { valid: true }, 'the check stores nothing');

  await setQuota('--max-objects=10');
  t.equal((await post(`${id}/runs/${json.id}/retry`)).status, 202);
  wake();
  t.match(await runs.finished(json.id), { state: 'successful', attempts: 2, error: null });
  t.match(await contentsOf(destination), { objects: { length: 2 }, unfinished: [] });
});

t.test('aborts an upload whose parts exceed the quota of the bucket', needsS3, async t => {
  const { uid, ...credentials } = await createUser();
  const { bucket, owner } = await createBucket(t, { user: credentials });
  const scope = ['--quota-scope=bucket', `--bucket=${bucket}`, `--uid=${uid}`];
  await radosgwAdmin('quota', 'enable', ...scope, `--max-size=${4 * mebibyte}`);
  const destination = s3Destination({ bucket });
  const Bucket = bucket;
  const uploading = uploadObject(owner, uploadRequest(destination, 8 * mebibyte + 1));
  await t.rejects(uploading, {
    name: 'StorageError',
    details: { code: 'storage_unavailable', message: /quota is full \(QuotaExceeded\)/ },
  });
  const { Uploads = [] } = await owner.send(new ListMultipartUploadsCommand({ Bucket }));
  const { KeyCount } = await owner.send(new ListObjectsV2Command({ Bucket }));
  t.strictSame([Uploads, KeyCount], [[], 0], 'nothing is left in the bucket');
});

t.test('signs the path of an endpoint that has one', needsS3, async t => {
  const endpointPath = '/storage/v1/s3';
  const { secretAccessKey } = s3Server().users.full;
  const proxy = await startS3Proxy();
  t.teardown(proxy.close);
  // Plays a gateway below a path: verifies the signature of the complete path, removes the
  // endpoint's path and signs again. Ceph verifies that signature.
  proxy.decide(request => {
    const { url = '', headers } = request;
    const authorization = headers.authorization ?? '';
    const isSigned = authorization.endsWith(`Signature=${s3Signature(request, secretAccessKey)}`);
    if (!isSigned || !url.startsWith(`${endpointPath}/`)) return 'deny';
    request.url = url.slice(endpointPath.length);
    const signature = `Signature=${s3Signature(request, secretAccessKey)}`;
    headers.authorization = authorization.replace(/Signature=\w+$/, signature);
    return 'pass';
  });
  const csv = await ingest(['c1', 'c2']);
  const folder = freshPrefix();
  const body = configBody('full', {
    endpoint: `${proxy.endpoint}${endpointPath}/`,
    key: `${folder}/ü +(1)/date={date}`,
    manifest: true,
  });
  t.match((await post('validate', { ...body, endpoint: proxy.endpoint })).json, { valid: false });
  const { id, endpoint } = await makeConfig(app, environmentId, body);
  t.equal(endpoint, `${proxy.endpoint}${endpointPath}`);
  // The second run also removes the manifest of the first one.
  for (const run of [await runNow(id), await runNow(id)]) {
    t.match(run, { state: 'successful', attempts: 1, error: null });
    t.equal((await readObject(s3Server().bucket, run.objectKey)).body.toString(), csv);
  }
  t.match(await contentsOf(s3Destination({ key: folder })), {
    objects: { length: 2 },
    unfinished: [],
  });
  const methods = new Set(proxy.requests.map(line => line.split(' ')[0]));
  t.strictSame([...methods].sort(), ['DELETE', 'GET', 'POST', 'PUT']);
});
