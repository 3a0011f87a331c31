import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { CreateBucketCommand } from '@aws-sdk/client-s3';
import t from 'tap';
import type { Credentials, Destination } from '../../../src/destinations/destination.ts';
import { objectKey } from '../../../src/destinations/object-key.ts';
import { type CheckResult, checkDestination } from '../../../src/destinations/s3/check.ts';
import type { ClientEnvironment } from '../../../src/destinations/s3/client.ts';
import { uploadObject } from '../../../src/destinations/s3/upload.ts';
import { parseEndpointAllowlist } from '../../../src/outbound/endpoint-allowlist.ts';
import {
  contentsOf,
  createBucket,
  createUser,
  freshPrefix,
  loopback,
  needsS3,
  type PolicyStatement,
  radosgwAdmin,
  s3Client,
  s3Destination,
  s3Server,
  setPolicy,
} from '../../helpers/s3.ts';
import { startGateway } from '../../helpers/s3-gateway.ts';
import { storageErrorCodes } from './storage-error-codes.ts';
import { bytes, digestOf, mebibyte, uploadRequest } from './test-source.ts';

const name = {
  environmentId: 'prod',
  snapshotDate: '2026-03-02',
  format: 'csv',
  compression: 'none',
} as const;
const wrongSecret = 'this-is-not-the-secret';

async function check(destination: Destination, credentials: Credentials): Promise<CheckResult> {
  const key = objectKey(destination.key, name);
  return await checkDestination(
    { destination, access: credentials, objectKey: key },
    { allowlist: loopback },
  );
}

/** Returns the error code or `ok` of list and write, such as `['ok', 'write_denied']`. */
function outcome({ checks }: CheckResult): string[] {
  return checks.map(({ error }) => error?.code ?? 'ok');
}

t.test('reports for each of four users which rights are missing', needsS3, async t => {
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
    t.strictSame(
      await contentsOf(destination),
      { objects: [], unfinished: [] },
      'nothing is left in the bucket',
    );
  }
});

t.test('reports wrong keys and a missing bucket, and accepts odd folders', needsS3, async t => {
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
  t.strictSame(
    outcome(await check({ ...destination, region: 'auto' }, full)),
    ['ok', 'ok'],
    'region auto',
  );
  t.strictSame(
    outcome(await check({ ...destination, key: 'ä ö/100%/+&?#' }, full)),
    ['ok', 'ok'],
    'odd folder',
  );
  t.strictSame(outcome(await check({ ...destination, key: '' }, full)), ['ok', 'ok'], 'no folder');
});

/** Returns the policy in docs/destinations.md for another bucket. */
function guidePolicy(bucket: string): PolicyStatement[] {
  const guide = fs.readFileSync(new URL('../../../docs/destinations.md', import.meta.url), 'utf8');
  const [, policy] = /<!-- test: least-policy -->\s+```json\n(.*?)```/s.exec(guide) ?? [];
  if (policy === undefined) throw new Error('docs/destinations.md has no policy');
  return JSON.parse(policy.replaceAll('acme-exports', bucket)).Statement;
}

t.test('needs exactly the rights that the documented policy grants', needsS3, async t => {
  const { bucket } = await createBucket(t);
  const { uid, ...credentials } = await createUser();
  const destination = s3Destination({ bucket, key: 'company-adoption' });
  const policy = guidePolicy(bucket);
  const without = (action: string) =>
    policy
      .map(statement => ({
        ...statement,
        Action: statement.Action.filter(name => name !== action),
      }))
      .filter(statement => statement.Action.length > 0);

  await setPolicy(bucket, uid, policy);
  t.strictSame(outcome(await check(destination, credentials)), ['ok', 'ok'], 'as printed');
  t.strictSame(
    outcome(await check({ ...destination, key: 'elsewhere' }, credentials)),
    ['list_denied', 'write_denied'],
    'the policy grants nothing outside the folder',
  );
  const user = s3Client(credentials, destination);
  const key = objectKey(destination.key, name);
  // Two parts.
  const size = 8 * mebibyte + 1;
  const upload = (body: AsyncIterable<Uint8Array>) =>
    uploadObject(user, uploadRequest(destination, size, { key, body }));
  const breaking = bytes(size, offset => {
    if (offset === size) throw new Error('the source fails');
  });
  await t.rejects(upload(breaking), { message: 'the source fails' });
  t.strictSame(
    await contentsOf(destination),
    { objects: [], unfinished: [] },
    'the policy allows aborting an upload',
  );
  t.strictSame(await upload(bytes(size)), await digestOf(size), 'the policy allows writing a file');
  t.strictSame(await upload(bytes(1)), await digestOf(1), 'the policy allows overwriting a file');
  user.destroy();

  await setPolicy(bucket, uid, without('s3:ListBucket'));
  t.strictSame(
    outcome(await check(destination, credentials)),
    ['list_denied', 'ok'],
    'without ListBucket',
  );
  await setPolicy(bucket, uid, without('s3:PutObject'));
  t.strictSame(
    outcome(await check(destination, credentials)),
    ['ok', 'write_denied'],
    'without PutObject',
  );
  t.strictSame((await contentsOf(destination)).unfinished, [], 'nothing is left in the bucket');
  await setPolicy(bucket, uid, without('s3:AbortMultipartUpload'));
  const refused = await check(destination, credentials);
  t.strictSame(outcome(refused), ['ok', 'write_denied'], 'without AbortMultipartUpload');
  t.match(refused.checks[1]?.error?.hint, /AbortMultipartUpload/);
});

t.test('documents every storage error code in docs/destinations.md', async t => {
  const guide = fs.readFileSync(new URL('../../../docs/destinations.md', import.meta.url), 'utf8');
  for (const [code, transient] of Object.entries(storageErrorCodes)) {
    t.match(
      guide,
      new RegExp(`^\\| \`${code}\` .* \\| ${transient ? 'yes' : 'no'} \\|$`, 'm'),
      code,
    );
  }
});

t.test('reports a suspended user', needsS3, async t => {
  const { uid, ...credentials } = await createUser();
  await radosgwAdmin('user', 'suspend', `--uid=${uid}`);
  const result = await check(s3Destination(), credentials);
  t.strictSame(outcome(result), ['list_denied', 'write_denied']);
  t.match(result.checks[0]?.error?.message, /suspended/);
});

t.test('reaches the bucket of a Ceph tenant', needsS3, async t => {
  const { uid, ...credentials } = await createUser();
  const tenant = `t${randomBytes(4).toString('hex')}`;
  const keys = [`--access-key=T${credentials.accessKeyId}`, '--secret-key=not-a-real-secret'];
  const names = [`--tenant=${tenant}`, `--uid=${uid}`, '--display-name=tenant'];
  await radosgwAdmin('user', 'create', ...names, ...keys);
  const owner = {
    accessKeyId: `T${credentials.accessKeyId}`,
    secretAccessKey: 'not-a-real-secret',
  };
  const destination = s3Destination({ bucket: `${tenant}:acme` });
  const client = s3Client(owner, destination);
  await client.send(new CreateBucketCommand({ Bucket: 'acme' }));
  client.destroy();
  t.strictSame(outcome(await check(destination, owner)), ['ok', 'ok']);
  t.strictSame(outcome(await check({ ...destination, bucket: 'acme' }, owner)), ['ok', 'ok']);
  t.match(outcome(await check(destination, s3Server().users.full)), [
    'list_denied',
    'write_denied',
  ]);
});

t.test('fails both checks when the endpoint contains the bucket', needsS3, async t => {
  const gateway = await startGateway(['--rgw-dns-name=s3.lab.example']);
  t.teardown(gateway.stop);
  const environment: ClientEnvironment = {
    allowlist: parseEndpointAllowlist(['127.0.0.0/8']),
    resolve: (_name, _options, callback) => callback(null, [{ address: '127.0.0.1', family: 4 }]),
  };
  const checkAt = async (host: string, key: string) => {
    const endpoint = `http://${host}:${gateway.port}`;
    const destination = s3Destination({ endpoint, key });
    return await checkDestination(
      { destination, access: s3Server().users.full, objectKey: `${key}/file.csv` },
      environment,
    );
  };
  const key = freshPrefix();
  const { bucket } = s3Server();
  t.strictSame(
    outcome(await checkAt('s3.lab.example', key)),
    ['ok', 'ok'],
    'the endpoint without the bucket works',
  );
  const refused = await checkAt(`${bucket}.s3.lab.example`, key);
  t.strictSame(outcome(refused), ['not_s3', 'not_s3']);
  const inPath = await check(
    s3Destination({ endpoint: `${s3Server().endpoint}/${bucket}`, key }),
    s3Server().users.full,
  );
  t.strictSame(outcome(inPath), ['not_s3', 'not_s3']);
  for (const { error } of [...refused.checks, ...inPath.checks])
    t.match(error?.message, /leave the bucket out of the endpoint/);
  t.strictSame(
    await contentsOf(s3Destination({ key: `${bucket}/${key}` })),
    { objects: [], unfinished: [] },
    'nothing is left in the bucket',
  );
});

t.test('checks the certificate of an endpoint unless the operator trusts it', needsS3, async t => {
  const { httpsEndpoint, endpoint, caFile, users } = s3Server();
  const twice = (code: string) => [code, code];
  const destination = s3Destination({ endpoint: httpsEndpoint });
  t.strictSame(
    outcome(await check(destination, users.full)),
    twice('tls_error'),
    'an untrusted certificate',
  );
  const trusted = await checkDestination(
    {
      destination,
      access: users.full,
      objectKey: objectKey(destination.key, { ...name, compression: 'gzip' }),
    },
    { allowlist: loopback, extraCa: fs.readFileSync(caFile, 'utf8') },
  );
  t.strictSame(outcome(trusted), ['ok', 'ok'], 'a certificate that the operator trusts');
  t.strictSame(await contentsOf(destination), { objects: [], unfinished: [] });
  const plain = s3Destination({ endpoint: endpoint.replace('http:', 'https:') });
  t.strictSame(
    outcome(await check(plain, users.full)),
    twice('tls_error'),
    'https at a port that serves http',
  );
});

t.test('does not connect to an address that is not allowed', needsS3, async t => {
  const { full } = s3Server().users;
  const destination = s3Destination();
  const request = { destination, access: full, objectKey: 'k' };
  const refused = await checkDestination(request, { allowlist: parseEndpointAllowlist([]) });
  t.strictSame(outcome(refused), ['endpoint_not_allowed', 'endpoint_not_allowed']);
  const absent = await checkDestination(
    { ...request, destination: { ...destination, endpoint: 'https://absent.example' } },
    {
      allowlist: parseEndpointAllowlist([]),
      resolve: (_name, _options, callback) =>
        callback(Object.assign(new Error(), { code: 'ENOTFOUND' }), []),
    },
  );
  t.strictSame(absent, refused, 'same answer as for a name that does not resolve');
});
