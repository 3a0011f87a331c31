import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { CreateMultipartUploadCommand } from '@aws-sdk/client-s3';
import t from 'tap';
import type { Destination } from '../../../src/destinations/destination.ts';
import { abortOrphanedUploads, abortUpload } from '../../../src/destinations/s3/abort-upload.ts';
import { StorageError } from '../../../src/destinations/s3/errors.ts';
import { putManifest, removeManifest } from '../../../src/destinations/s3/manifest.ts';
import {
  partSizeBytes,
  type UploadRequest,
  uploadObject,
} from '../../../src/destinations/s3/upload.ts';
import {
  contentsOf,
  createBucket,
  createUser,
  needsS3,
  radosgwAdmin,
  readObject,
  s3Client,
  s3Destination,
  setPolicy,
} from '../../helpers/s3.ts';
import { startGateway } from '../../helpers/s3-gateway.ts';
import { bytes, digestOf, mebibyte, uploadRequest } from './test-source.ts';

const empty = { objects: [], unfinished: [] };
const part = 8 * mebibyte;
/** Offset in the second part of an object with `whole` bytes. */
const inPartTwo = part + 128 * 1024;
const whole = part + 256 * 1024;

function requestFor(
  destination: Destination,
  overrides: Partial<UploadRequest> = {},
): UploadRequest {
  const metadata = { 'row-count': '7', 'snapshot-date': '2026-03-02', 'environment-id': 'prod' };
  return uploadRequest(destination, whole, { metadata, ...overrides });
}

t.test('chooses the part size by the expected size', async t => {
  const table: [number, number][] = [
    [0, 8],
    [1, 8],
    [39_000 * mebibyte, 8],
    [40_000 * mebibyte, 8],
    [40_000 * mebibyte + 1, 9],
    [2_000_000 * mebibyte, 400],
  ];
  for (const [expected, size] of table)
    t.equal(partSizeBytes(expected), size * mebibyte, `${expected} bytes`);
});

t.test('uploads complete objects of sizes around the part size', needsS3, async t => {
  const client = s3Client('full');
  t.teardown(() => client.destroy());
  for (const size of [0, 1, 65_536, part, part + 1, 2 * part]) {
    const destination = s3Destination();
    const started: string[] = [];
    const request = requestFor(destination, {
      body: bytes(size),
      onMultipartStarted: async uploadId => {
        t.strictSame((await contentsOf(destination)).objects, []);
        started.push(uploadId);
      },
    });
    const uploaded = await uploadObject(client, request);
    t.strictSame(uploaded, await digestOf(size), `${size} bytes`);
    const stored = await readObject(destination.bucket, request.key);
    t.equal(stored.body.length, size);
    t.equal(createHash('sha256').update(stored.body).digest('hex'), uploaded.sha256);
    t.equal(stored.contentType, 'text/csv');
    t.strictSame(stored.metadata, request.metadata);
    t.equal(started.length, size > part ? 1 : 0, 'reports the id of a multipart upload once');
    t.strictSame(await contentsOf(destination), { objects: [request.key], unfinished: [] });
  }
});

t.test('leaves nothing in the bucket when the source fails', needsS3, async t => {
  const client = s3Client('full');
  t.teardown(() => client.destroy());
  for (const [size, failAt] of [
    [whole, 0],
    [whole, mebibyte],
    [whole, inPartTwo],
    [whole, whole],
    [1_000, 0],
    [1_000, 1_000],
  ] as const) {
    const destination = s3Destination();
    const fault = new Error('the database is unreachable');
    const body = bytes(size, offset => {
      if (offset >= failAt) throw fault;
    });
    const failed = uploadObject(client, requestFor(destination, { body }));
    t.equal(
      await failed.catch((error: unknown) => error),
      fault,
      `${size} bytes, failing at ${failAt}`,
    );
    t.strictSame(await contentsOf(destination), empty);
  }
});

t.test(
  'leaves nothing in the bucket when the source is destroyed without an error',
  needsS3,
  async t => {
    const client = s3Client('full');
    t.teardown(() => client.destroy());
    const cutInside = (size: number, cutAt: number) => () => {
      const body = Readable.from(bytes(size, offset => offset >= cutAt && body.destroy()));
      return body;
    };
    const buffered = (cut: (body: Readable) => void) => () => {
      const body = new Readable({ read() {} });
      for (let left = whole; left > 0; left -= 65_536) body.push(Buffer.alloc(65_536));
      body.push(null);
      cut(body);
      return body;
    };
    const cuts: [string, () => Readable][] = [
      ['at the first byte of a small file', cutInside(1_000, 0)],
      ['in the second part', cutInside(whole, inPartTwo)],
      [
        'with the end of the source in the buffer',
        buffered(body => body.once('data', () => body.destroy())),
      ],
      ['before the source was read', buffered(body => body.destroy())],
    ];
    for (const [title, source] of cuts) {
      const destination = s3Destination();
      const failed = uploadObject(client, requestFor(destination, { body: source() }));
      await t.rejects(failed, /premature close|cut off/i, title);
      t.strictSame(await contentsOf(destination), empty, title);
    }
  },
);

t.test('leaves nothing in the bucket when it is aborted at any time', needsS3, async t => {
  const client = s3Client('full');
  t.teardown(() => client.destroy());
  const stops: [string, (stop: () => void) => Partial<UploadRequest>][] = [
    [
      'before the start',
      stop => {
        stop();
        return {};
      },
    ],
    ['at the first byte', stop => ({ body: bytes(whole, stop) })],
    [
      'in the second part',
      stop => ({ body: bytes(whole, offset => offset > inPartTwo && stop()) }),
    ],
    [
      'at the end of the source',
      stop => ({ body: bytes(whole, offset => offset === whole && stop()) }),
    ],
    [
      'at the end of a small source',
      stop => ({ body: bytes(1_000, offset => offset === 1_000 && stop()) }),
    ],
    ['when the upload has started', stop => ({ onMultipartStarted: async () => stop() })],
    [
      'while the source is idle',
      stop => ({
        body: bytes(whole, async offset => {
          if (offset < inPartTwo) return;
          stop();
          await new Promise(() => {});
        }),
      }),
    ],
    [
      'while a stream is idle',
      stop => {
        const body = new Readable({ read() {} });
        body.push(Buffer.alloc(whole));
        return { body, onMultipartStarted: async () => stop() };
      },
    ],
  ];
  for (const [title, arrange] of stops) {
    const destination = s3Destination();
    const reason = new Error('the config was deleted');
    const controller = new AbortController();
    const overrides = arrange(() => controller.abort(reason));
    const request = requestFor(destination, { ...overrides, signal: controller.signal });
    const thrown = await uploadObject(client, request).catch((error: unknown) => error);
    t.equal(thrown, reason, title);
    t.strictSame(await contentsOf(destination), empty, title);
    if (request.body instanceof Readable)
      t.equal(request.body.destroyed, true, 'the source is closed');
  }
});

t.test('aborts an upload when its id cannot be stored', needsS3, async t => {
  const client = s3Client('full');
  t.teardown(() => client.destroy());
  const destination = s3Destination();
  const fault = new Error('the run row cannot be written');
  const onMultipartStarted = async () => {
    throw fault;
  };
  const thrown = await uploadObject(client, requestFor(destination, { onMultipartStarted })).catch(
    error => error,
  );
  t.equal(thrown, fault);
  t.strictSame(await contentsOf(destination), empty);
});

t.test('reports rights that are revoked between two parts', needsS3, async t => {
  const revocations: [string, (uid: string, accessKeyId: string) => Promise<unknown>, string][] = [
    ['user suspended', uid => radosgwAdmin('user', 'suspend', `--uid=${uid}`), 'write_denied'],
    [
      'key revoked',
      (uid, id) => radosgwAdmin('key', 'rm', `--uid=${uid}`, '--key-type=s3', `--access-key=${id}`),
      'access_key_not_recognised',
    ],
  ];
  for (const [title, revoke, code] of revocations) {
    const { uid, ...credentials } = await createUser();
    const { bucket, owner } = await createBucket(t);
    const user = s3Client(credentials);
    const destination = s3Destination({ bucket });
    await setPolicy(destination.bucket, uid, [
      {
        Effect: 'Allow',
        Action: ['s3:PutObject', 's3:AbortMultipartUpload'],
        Resource: `arn:aws:s3:::${destination.bucket}/${destination.key}/*`,
      },
    ]);
    const started = Promise.withResolvers<string>();
    let revoked = false;
    const request = requestFor(destination, {
      body: bytes(whole, async offset => {
        if (offset < inPartTwo || revoked) return;
        revoked = true;
        await started.promise;
        await revoke(uid, credentials.accessKeyId);
      }),
      onMultipartStarted: async id => started.resolve(id),
    });
    const thrown = await uploadObject(user, request).catch((error: unknown) => error);
    t.type(thrown, StorageError, title);
    t.equal((thrown as StorageError).details.code, code, title);
    t.strictSame((await contentsOf(destination)).objects, [], 'no object');
    // The user cannot abort without rights. A user with rights can abort by the stored id.
    const uploadId = await started.promise;
    await abortUpload(owner, destination, request.key, uploadId);
    t.strictSame(await contentsOf(destination), empty);
    await t.resolves(
      abortUpload(owner, destination, request.key, uploadId),
      'a second abort succeeds',
    );
    user.destroy();
  }
});

t.test(
  'reports a server that is killed during the upload, and a new attempt succeeds',
  needsS3,
  async t => {
    const gateway = await startGateway();
    t.teardown(gateway.stop);
    const destination = s3Destination();
    const client = s3Client('full', { ...destination, endpoint: gateway.endpoint });
    const other = s3Client('full');
    t.teardown(() => {
      client.destroy();
      other.destroy();
    });
    const started = Promise.withResolvers<string>();
    const request = requestFor(destination, {
      body: bytes(whole, async offset => {
        if (offset < inPartTwo) return;
        await started.promise;
        await gateway.kill();
      }),
      onMultipartStarted: async id => started.resolve(id),
    });
    const thrown = await uploadObject(client, request).catch((error: unknown) => error);
    t.equal((thrown as StorageError).details.code, 'endpoint_unreachable');
    t.strictSame(await contentsOf(destination), { objects: [], unfinished: [request.key] });
    await abortUpload(other, destination, request.key, await started.promise);
    t.strictSame(await contentsOf(destination), empty);
    t.strictSame(
      await uploadObject(other, requestFor(destination)),
      await digestOf(whole),
      'the next attempt succeeds',
    );
  },
);

t.test('aborts unfinished uploads of one key if listing them is allowed', needsS3, async t => {
  const destination = s3Destination();
  const client = s3Client('full');
  const readOnly = s3Client('readOnly');
  t.teardown(() => {
    client.destroy();
    readOnly.destroy();
  });
  const key = `${destination.key}/file.csv`;
  const ids: string[] = [];
  for (const Key of [key, key, `${key}.gz`]) {
    const begun = await client.send(
      new CreateMultipartUploadCommand({ Bucket: destination.bucket, Key }),
    );
    ids.push(begun.UploadId ?? '');
  }
  const { signal } = new AbortController();
  t.equal(await abortOrphanedUploads(readOnly, destination, key, [], signal), null, 'not allowed');
  t.equal(
    await abortOrphanedUploads(client, destination, key, ids.slice(1), signal),
    1,
    'except for one id',
  );
  t.strictSame((await contentsOf(destination)).unfinished, [key, `${key}.gz`]);
  t.equal(await abortOrphanedUploads(client, destination, key, [], signal), 1);
  t.strictSame((await contentsOf(destination)).unfinished, [`${key}.gz`]);
  t.equal(await abortOrphanedUploads(client, destination, `${key}.gz`, [], signal), 1);
});

t.test('writes and removes a manifest', needsS3, async t => {
  const destination = s3Destination();
  const client = s3Client('full');
  t.teardown(() => client.destroy());
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
  const { signal } = new AbortController();
  await putManifest(client, destination, null, manifest, signal);
  const key = `${destination.key}/_manifest/company-adoption_prod_2026-03-02.csv.json`;
  const stored = await readObject(destination.bucket, key);
  t.strictSame(JSON.parse(stored.body.toString()), manifest);
  t.equal(stored.contentType, 'application/json');
  await removeManifest(client, destination, key, true, signal);
  t.strictSame((await contentsOf(destination)).objects, []);
  await t.resolves(removeManifest(client, destination, key, true, signal), 'no manifest exists');
  await putManifest(client, destination, null, manifest, signal);
  const readOnly = s3Client('readOnly');
  t.teardown(() => readOnly.destroy());
  await t.resolves(
    removeManifest(readOnly, destination, `${key}x`, true, signal),
    'a user without the right to delete',
  );
  const kept = await removeManifest(readOnly, destination, key, false, signal).catch(
    (error: unknown) => error,
  );
  t.equal((kept as StorageError).details.code, 'write_denied');
  t.match((kept as StorageError).details.hint, /DeleteObject/);
  const denied = s3Client('nothing');
  t.teardown(() => denied.destroy());
  await t.resolves(removeManifest(denied, destination, key, false, signal));
  const unlisted = await removeManifest(denied, destination, key, true, signal).catch(
    (error: unknown) => error,
  );
  t.equal((unlisted as StorageError).details.code, 'list_denied');
  const thrown = await putManifest(denied, destination, null, manifest, signal).catch(
    (error: unknown) => error,
  );
  t.equal((thrown as StorageError).details.code, 'write_denied');
});
