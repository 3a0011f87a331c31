import fs from 'node:fs';
import { CreateBucketCommand } from '@aws-sdk/client-s3';
import t from 'tap';
import { type CheckResult, checkDestination } from '../../src/destinations/check-destination.ts';
import { parseEndpointAllowlist } from '../../src/destinations/endpoint-allowlist.ts';
import type { Credentials, Destination } from '../../src/destinations/location.ts';
import { objectKey } from '../../src/destinations/object-key.ts';
import {
  contentsOf,
  createUser,
  freshPrefix,
  loopback,
  needsS3,
  radosgwAdmin,
  s3Client,
  s3Destination,
  s3Server,
  setPolicy,
} from '../helpers/s3.ts';

const wrongSecret = 'this-is-not-the-secret';

async function check(destination: Destination, credentials: Credentials): Promise<CheckResult> {
  const key = objectKey(destination.key, 'prod', '2026-03-02', 'none');
  return await checkDestination({ destination, credentials, objectKey: key }, { allowlist: loopback });
}

/** `['ok', 'write_denied']`: how the list and the write went. */
function outcome({ checks }: CheckResult): string[] {
  return checks.map(({ error }) => error?.code ?? 'ok');
}

t.test('the four users', needsS3, async t => {
  const expected = {
    full: ['ok', 'ok'],
    putOnly: ['list_denied', 'ok'],
    readOnly: ['ok', 'write_denied'],
    nothing: ['list_denied', 'write_denied'],
  } as const;
  for (const user of ['full', 'putOnly', 'readOnly', 'nothing'] as const) {
    const destination = s3Destination();
    const result = await check(destination, s3Server().users[user]);
    t.strictSame(outcome(result), expected[user], user);
    t.equal(result.valid, user === 'full');
    t.strictSame(
      result.checks.map(({ name, ok }) => [name, ok]),
      [
        ['list', expected[user][0] === 'ok'],
        ['write', expected[user][1] === 'ok'],
      ],
    );
    t.strictSame(await contentsOf(destination), { objects: [], unfinished: [] }, 'nothing stays');
  }
});

t.test('keys and buckets that are wrong', needsS3, async t => {
  const { full } = s3Server().users;
  const destination = s3Destination();
  const twice = (code: string) => [code, code];
  t.strictSame(
    outcome(await check(destination, { ...full, secretAccessKey: wrongSecret })),
    twice('secret_key_mismatch'),
  );
  t.strictSame(
    outcome(await check(destination, { ...full, accessKeyId: 'AKIAUNKNOWN' })),
    twice('access_key_not_recognised'),
  );
  const missing = await check({ ...destination, bucket: 'no-such-bucket' }, full);
  t.strictSame(outcome(missing), twice('bucket_not_found'));
  t.match(missing.checks[0]?.error?.message, /`no-such-bucket`/);
  t.strictSame(outcome(await check({ ...destination, region: 'auto' }, full)), ['ok', 'ok'], 'region auto');
  t.strictSame(
    outcome(await check({ ...destination, key: 'ä ö/100%/+&?#' }, full)),
    ['ok', 'ok'],
    'odd folder',
  );
  t.strictSame(outcome(await check({ ...destination, key: '' }, full)), ['ok', 'ok'], 'no folder');
});

t.test('exactly the rights of the guide are enough, and each of them is needed', needsS3, async t => {
  const owner = s3Client('full');
  const bucket = freshPrefix();
  await owner.send(new CreateBucketCommand({ Bucket: bucket }));
  owner.destroy();
  const { uid, ...credentials } = await createUser();
  const destination = s3Destination({ bucket, key: 'exports' });
  const list = {
    Effect: 'Allow',
    Action: ['s3:ListBucket'],
    Resource: `arn:aws:s3:::${bucket}`,
    Condition: { StringLike: { 's3:prefix': 'exports/*' } },
  } as const;
  const objects = (...Action: string[]) =>
    ({ Effect: 'Allow', Action, Resource: `arn:aws:s3:::${bucket}/exports/*` }) as const;

  await setPolicy(bucket, uid, [list, objects('s3:PutObject', 's3:AbortMultipartUpload')]);
  t.strictSame(outcome(await check(destination, credentials)), ['ok', 'ok'], 'all three');
  t.strictSame(
    outcome(await check({ ...destination, key: 'elsewhere' }, credentials)),
    ['list_denied', 'write_denied'],
    'and only under the folder',
  );
  await setPolicy(bucket, uid, [objects('s3:PutObject', 's3:AbortMultipartUpload')]);
  t.strictSame(outcome(await check(destination, credentials)), ['list_denied', 'ok'], 'without ListBucket');
  await setPolicy(bucket, uid, [list, objects('s3:AbortMultipartUpload')]);
  t.strictSame(outcome(await check(destination, credentials)), ['ok', 'write_denied'], 'without PutObject');
  t.strictSame((await contentsOf(destination)).unfinished, [], 'nothing stays');

  await setPolicy(bucket, uid, [list, objects('s3:PutObject')]);
  const refused = await check(destination, credentials);
  t.strictSame(outcome(refused), ['ok', 'write_denied'], 'without AbortMultipartUpload');
  t.match(refused.checks[1]?.error?.hint, /AbortMultipartUpload/);
});

t.test('a suspended user', needsS3, async t => {
  const { uid, ...credentials } = await createUser();
  await radosgwAdmin('user', 'suspend', `--uid=${uid}`);
  const result = await check(s3Destination(), credentials);
  t.strictSame(outcome(result), ['list_denied', 'write_denied']);
  t.match(result.checks[0]?.error?.message, /suspended/);
});

t.test('TLS', needsS3, async t => {
  const { httpsEndpoint, endpoint, caFile, users } = s3Server();
  const twice = (code: string) => [code, code];
  const destination = s3Destination({ endpoint: httpsEndpoint });
  t.strictSame(outcome(await check(destination, users.full)), twice('tls_error'), 'an unknown certificate');
  const trusted = await checkDestination(
    {
      destination,
      credentials: users.full,
      objectKey: objectKey(destination.key, 'prod', '2026-03-02', 'gzip'),
    },
    { allowlist: loopback, extraCa: fs.readFileSync(caFile, 'utf8') },
  );
  t.strictSame(outcome(trusted), ['ok', 'ok'], 'trusted when the operator says so');
  t.strictSame(await contentsOf(destination), { objects: [], unfinished: [] });
  const plain = s3Destination({ endpoint: endpoint.replace('http:', 'https:') });
  t.strictSame(
    outcome(await check(plain, users.full)),
    twice('tls_error'),
    'https at a port that speaks http',
  );
});

t.test('an address that is not allowed is never dialled', needsS3, async t => {
  const { full } = s3Server().users;
  const destination = s3Destination();
  const request = { destination, credentials: full, objectKey: 'k' };
  const refused = await checkDestination(request, { allowlist: parseEndpointAllowlist([]) });
  t.strictSame(outcome(refused), ['endpoint_not_allowed', 'endpoint_not_allowed']);
  const absent = await checkDestination(
    { ...request, destination: { ...destination, endpoint: 'https://absent.example' } },
    {
      allowlist: parseEndpointAllowlist([]),
      resolve: (_name, _options, callback) => callback(Object.assign(new Error(), { code: 'ENOTFOUND' }), []),
    },
  );
  t.strictSame(absent, refused, 'in the words for a name that does not resolve');
});
