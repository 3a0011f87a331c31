import { PutObjectCommand } from '@aws-sdk/client-s3';
import t from 'tap';
import type { Destination } from '../../../src/destinations/destination.ts';
import { createS3Client, runTimeouts } from '../../../src/destinations/s3/client.ts';
import { parseEndpointAllowlist } from '../../../src/outbound/endpoint-allowlist.ts';

t.test('sends requests to the host of each provider', async t => {
  const table: [Partial<Destination>, string][] = [
    [
      { provider: 'aws', region: 'eu-west-1', bucket: 'acme' },
      'https://acme.s3.eu-west-1.amazonaws.com/k',
    ],
    [
      { provider: 'aws', region: 'eu-west-1', bucket: 'a.b.c' },
      'https://s3.eu-west-1.amazonaws.com/a.b.c/k',
    ],
    [
      { provider: 'aws', region: 'cn-north-1', bucket: 'acme' },
      'https://acme.s3.cn-north-1.amazonaws.com.cn/k',
    ],
    [
      { provider: 'aws', region: 'us-gov-west-1', bucket: 'acme' },
      'https://acme.s3.us-gov-west-1.amazonaws.com/k',
    ],
    [
      { provider: 'aws', region: 'us-east-1', bucket: 'acme' },
      'https://acme.s3.us-east-1.amazonaws.com/k',
    ],
    [
      { provider: 'gcp', region: 'europe-west1', bucket: 'a.b' },
      'https://storage.googleapis.com/a.b/k',
    ],
    [{ provider: 'gcp', region: 'EU', bucket: 'acme' }, 'https://storage.googleapis.com/acme/k'],
    [
      { provider: 'custom', region: 'auto', endpoint: 'https://x.r2.cloudflarestorage.com' },
      'https://x.r2.cloudflarestorage.com/acme/k',
    ],
    [
      { provider: 'custom', region: 'us-east-1', endpoint: 'https://minio.example:9000' },
      'https://minio.example:9000/acme/k',
    ],
    [
      { provider: 'custom', region: 'local', endpoint: 'https://abc.supabase.co/storage/v1/s3' },
      'https://abc.supabase.co/storage/v1/s3/acme/k',
    ],
    [
      { provider: 'custom', bucket: 'tenant:acme', endpoint: 'https://rgw.example' },
      'https://rgw.example/tenant%3Aacme/k',
    ],
    [
      {
        provider: 'custom',
        region: 'RegionOne',
        bucket: 'Acme_1',
        endpoint: 'https://rgw.example',
      },
      'https://rgw.example/Acme_1/k',
    ],
    [
      {
        provider: 'custom',
        region: 'oss-eu-central-1',
        endpoint: 'https://oss-eu-central-1.aliyuncs.com',
      },
      'https://acme.oss-eu-central-1.aliyuncs.com/k',
    ],
  ];
  const credentials = { accessKeyId: 'AKIATEST', secretAccessKey: 'not-a-real-secret' };
  process.env['AWS_ENDPOINT_URL'] = 'https://elsewhere.example';
  t.teardown(() => delete process.env['AWS_ENDPOINT_URL']);
  for (const [overrides, expected] of table) {
    const destination = {
      bucket: 'acme',
      region: 'auto',
      key: '',
      endpoint: null,
      ...overrides,
    } as Destination;
    const client = createS3Client(
      destination,
      credentials,
      { allowlist: parseEndpointAllowlist([]) },
      runTimeouts,
    );
    let sent:
      | {
          protocol: string;
          hostname: string;
          port?: number;
          path: string;
          headers: Record<string, string>;
        }
      | undefined;
    client.middlewareStack.add(
      () => async args => {
        sent = args.request as never;
        throw new Error('not sent');
      },
      { step: 'finalizeRequest', priority: 'low' },
    );
    await client
      .send(new PutObjectCommand({ Bucket: destination.bucket, Key: 'k', Body: 'x' }))
      .catch(() => {});
    const port = sent?.port === undefined ? '' : `:${sent.port}`;
    t.equal(`${sent?.protocol}//${sent?.hostname}${port}${sent?.path}`, expected);
    const checksum = Object.keys(sent?.headers ?? {}).some(name =>
      name.startsWith('x-amz-checksum-'),
    );
    const isAmazon = destination.provider === 'aws';
    t.equal(checksum, isAmazon, `${expected}: CRC-32 only at Amazon`);
    t.equal(
      sent?.headers['content-md5'],
      isAmazon ? undefined : 'ndTkYSaMgDT1yFZOFVxnpg==',
      `${expected}: Content-MD5 at all other providers`,
    );
    client.destroy();
  }
});
