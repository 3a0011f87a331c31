import { PutObjectLockConfigurationCommand } from '@aws-sdk/client-s3';
import t from 'tap';
import { putManifest } from '../../../src/destinations/s3/manifest.ts';
import { uploadObject } from '../../../src/destinations/s3/upload.ts';
import { createBucket, needsS3, readObject, s3Client, s3Destination } from '../../helpers/s3.ts';
import { startS3Proxy } from '../../helpers/s3-proxy.ts';
import { digestOf, mebibyte, uploadRequest } from './test-source.ts';

const { signal } = new AbortController();

t.test('writes to a bucket with Object Lock that requires a digest', needsS3, async t => {
  const { bucket, owner } = await createBucket(t, { isLocked: true });
  await owner.send(
    new PutObjectLockConfigurationCommand({
      Bucket: bucket,
      ObjectLockConfiguration: {
        ObjectLockEnabled: 'Enabled',
        Rule: { DefaultRetention: { Mode: 'GOVERNANCE', Days: 1 } },
      },
    }),
  );
  // Ceph stores objects without a digest. Amazon and Backblaze refuse them.
  const proxy = await startS3Proxy();
  proxy.decide(({ method, headers }) => {
    const hasDigest =
      headers['content-md5'] !== undefined ||
      Object.keys(headers).some(name => name.startsWith('x-amz-checksum-'));
    return method === 'PUT' && !hasDigest ? 'invalid-request' : 'pass';
  });
  t.teardown(proxy.close);
  const destination = s3Destination({ bucket, endpoint: proxy.endpoint });
  const client = s3Client('full', destination);
  t.teardown(() => client.destroy());

  for (const size of [0, 7, 17 * mebibyte]) {
    const key = `${destination.key}/${size}.csv`;
    const uploaded = await uploadObject(client, uploadRequest(destination, size, { key }));
    t.strictSame(uploaded, await digestOf(size), `${size} bytes`);
    t.equal((await readObject(bucket, key)).body.length, size);
  }
  const manifest = {
    manifestVersion: 1,
    environmentId: 'prod',
    configId: 'c',
    runId: 'r',
    snapshotDate: '2026-03-02',
    snapshotVersion: 'v',
    objectKey: `${destination.key}/company-adoption_prod_2026-03-02.csv`,
    format: 'csv',
    compression: 'none',
    bytes: 7,
    rowCount: 1,
    sha256: 'ab',
    columns: [{ name: 'Company ID', type: 'string', nullable: false }],
    completedAt: '2026-03-03T00:00:09.000Z',
  } as const;
  await t.resolves(putManifest(client, destination, null, manifest, signal));
  t.equal(
    proxy.requests.filter(line => line.startsWith('PUT')).length,
    6,
    'no request was repeated',
  );
});

t.test('detects a part that is damaged in transit by its digest', needsS3, async t => {
  const proxy = await startS3Proxy();
  let damaged = 0;
  proxy.decide(({ method }) => {
    if (method !== 'PUT' || damaged > 0) return 'pass';
    damaged += 1;
    return 'damage';
  });
  t.teardown(proxy.close);
  const destination = s3Destination({ endpoint: proxy.endpoint });
  const client = s3Client('full', destination);
  t.teardown(() => client.destroy());
  const upload = () => uploadObject(client, uploadRequest(destination, 1_000));
  await t.rejects(upload(), { name: 'StorageError' });
  t.strictSame(await upload(), await digestOf(1_000));
});
