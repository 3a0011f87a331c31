import t from 'tap';
import { formatBucketUrl } from '../../src/destinations/bucket-url.ts';
import {
  type DestinationBody,
  parseCredentials,
  parseDestination,
} from '../../src/destinations/destination.ts';
import { manifestKey, maxKeyBytes, objectKey } from '../../src/destinations/object-key.ts';

const aws = (bucketUrl: string) => parseDestination({ provider: 'aws', bucketUrl });
const faultsOf = (body: DestinationBody) => {
  const parsed = parseDestination(body);
  return parsed.ok ? [] : parsed.faults;
};

t.test('Amazon bucket URLs that fit', async t => {
  const good: [string, string, string, string][] = [
    ['https://acme.s3.eu-west-1.amazonaws.com', 'acme', 'eu-west-1', ''],
    ['https://acme.s3.eu-west-1.amazonaws.com/', 'acme', 'eu-west-1', ''],
    ['https://acme.s3.eu-west-1.amazonaws.com///', 'acme', 'eu-west-1', ''],
    [
      'https://acme.s3.eu-west-1.amazonaws.com/exports/bucket',
      'acme',
      'eu-west-1',
      'exports/bucket',
    ],
    [
      'https://acme.s3.eu-west-1.amazonaws.com/exports/bucket//',
      'acme',
      'eu-west-1',
      'exports/bucket',
    ],
    [' https://acme.s3.eu-west-1.amazonaws.com/exports\n', 'acme', 'eu-west-1', 'exports'],
    ['https://data.acme.com.s3.us-east-1.amazonaws.com/a', 'data.acme.com', 'us-east-1', 'a'],
    ['https://a.s3.b.s3.us-east-1.amazonaws.com/a', 'a.s3.b', 'us-east-1', 'a'],
    ['https://acme.s3.cn-north-1.amazonaws.com.cn/a', 'acme', 'cn-north-1', 'a'],
    ['https://acme.s3.us-gov-west-1.amazonaws.com', 'acme', 'us-gov-west-1', ''],
    ['https://acme.s3.ap-southeast-2.amazonaws.com', 'acme', 'ap-southeast-2', ''],
    [
      'https://acme.s3.eu-west-1.amazonaws.com/my%20folder/%C3%A4',
      'acme',
      'eu-west-1',
      'my folder/ä',
    ],
    ['https://acme.s3.eu-west-1.amazonaws.com/100%25', 'acme', 'eu-west-1', '100%'],
    ['https://acme.s3.eu-west-1.amazonaws.com/a%2Fb%2F', 'acme', 'eu-west-1', 'a/b'],
    ['https://acme.s3.eu-west-1.amazonaws.com/a+b', 'acme', 'eu-west-1', 'a+b'],
    ['https://acme.s3.eu-west-1.amazonaws.com/a@b:c', 'acme', 'eu-west-1', 'a@b:c'],
    [`https://${'b'.repeat(63)}.s3.eu-west-1.amazonaws.com`, 'b'.repeat(63), 'eu-west-1', ''],
  ];
  for (const [url, bucket, region, key] of good) {
    t.strictSame(
      aws(url),
      { ok: true, value: { provider: 'aws', bucket, region, key, endpoint: null } },
      JSON.stringify(url),
    );
    t.strictSame(
      aws(formatBucketUrl({ bucket, region, key })),
      aws(url),
      `${bucket} ${key} survives being written`,
    );
  }
});

t.test('Amazon bucket URLs that do not fit say how to write them', async t => {
  const bad: [string, RegExp][] = [
    ['', /must look like https:\/\/<bucket>/],
    ['acme', /must look like/],
    ['acme.s3.eu-west-1.amazonaws.com', /must look like/],
    ['s3://acme/exports', /not an s3:\/\/ one/],
    ['http://acme.s3.eu-west-1.amazonaws.com', /must start with https/],
    ['ftp://acme.s3.eu-west-1.amazonaws.com', /must look like/],
    ['https://s3.amazonaws.com/acme', /bucket in the host name/],
    ['https://s3.eu-west-1.amazonaws.com/acme', /bucket in the host name/],
    ['https://s3-eu-west-1.amazonaws.com/acme', /bucket in the host name/],
    ['https://acme.s3.amazonaws.com/exports', /must name the region/],
    ['https://acme.s3-eu-west-1.amazonaws.com', /with a dot/],
    ['https://acme.s3.dualstack.eu-west-1.amazonaws.com', /without "dualstack"/],
    ['https://acme.s3-website.eu-west-1.amazonaws.com', /website/],
    ['https://eu-west-1.console.aws.amazon.com/s3/buckets/acme', /console/],
    ['https://user:pass@acme.s3.eu-west-1.amazonaws.com', /user or password/],
    ['https://user@acme.s3.eu-west-1.amazonaws.com', /user or password/],
    ['https://acme.s3.eu-west-1.amazonaws.com:443/a', /port/],
    ['https://acme.s3.eu-west-1.amazonaws.com:/a', /port/],
    ['https://acme.s3.eu-west-1.amazonaws.com/a?b=c', /"\?" or "#"/],
    ['https://acme.s3.eu-west-1.amazonaws.com?x', /"\?" or "#"/],
    ['https://acme.s3.eu-west-1.amazonaws.com/a#b', /"\?" or "#"/],
    ['https://Acme.s3.eu-west-1.amazonaws.com', /lower case/],
    ['https://acme.s3.EU-WEST-1.amazonaws.com', /must look like/],
    ['https://ac_me.s3.eu-west-1.amazonaws.com', /names the bucket "ac_me", which/],
    ['https://-acme.s3.eu-west-1.amazonaws.com', /bucket name/],
    ['https://ac..me.s3.eu-west-1.amazonaws.com', /bucket name/],
    ['https://ab.s3.eu-west-1.amazonaws.com', /3 to 63/],
    [`https://${'b'.repeat(64)}.s3.eu-west-1.amazonaws.com`, /3 to 63/],
    ['https://192.168.0.1.s3.eu-west-1.amazonaws.com', /IP address/],
    ['https://acme-s3alias.s3.eu-west-1.amazonaws.com', /access point/],
    ['https://acme--use1-az4--x-s3.s3.us-east-1.amazonaws.com', /directory bucket/],
    ['https://xn--acme.s3.eu-west-1.amazonaws.com', /general purpose/],
    ['https://acme.s3.nowhere.amazonaws.com', /no region that exists/],
    ['https://acme.s3.us-iso-east-1.amazonaws.com', /no region that exists/],
    ['https://acme.s3.eu-west-1.amazonaws.com.cn', /amazonaws\.com\.cn in the regions of China/],
    ['https://acme.s3.cn-north-1.amazonaws.com', /amazonaws\.com\.cn in the regions of China/],
    ['https://acme.s3.eu-west-1.amazonaws.com.evil.example', /must look like/],
    ['https://evil.example/.s3.eu-west-1.amazonaws.com', /must look like/],
    ['https://evil.example\\.s3.eu-west-1.amazonaws.com', /bucket name/],
    ['https://acme.s3.eu-west-1.amazonaws.com//a', /empty segments/],
    ['https://acme.s3.eu-west-1.amazonaws.com/a//b', /empty segments/],
    ['https://acme.s3.eu-west-1.amazonaws.com/../b', /"\.\."/],
    ['https://acme.s3.eu-west-1.amazonaws.com/a/%2e%2e/b', /"\.\."/],
    ['https://acme.s3.eu-west-1.amazonaws.com/./b', /"\."/],
    ['https://acme.s3.eu-west-1.amazonaws.com/100%', /write "%25"/],
    ['https://acme.s3.eu-west-1.amazonaws.com/%ff', /write "%25"/],
    ['https://acme.s3.eu-west-1.amazonaws.com/a%00b', /control characters/],
    ['https://acme.s3.eu-west-1.amazonaws.com/a%0Ab', /control characters/],
    ['https://acme.s3.eu-west-1.amazonaws.com/\ud800', /control characters/],
    [`https://acme.s3.eu-west-1.amazonaws.com/${'k'.repeat(maxKeyBytes + 1)}`, /longer than/],
  ];
  for (const [url, message] of bad) {
    const parsed = aws(url);
    if (parsed.ok) {
      t.fail(`accepted ${url}`);
      continue;
    }
    t.equal(parsed.faults.length, 1);
    t.equal(parsed.faults[0]?.path, '/bucketUrl');
    t.match(parsed.faults[0]?.message, message, JSON.stringify(url.slice(0, 80)));
  }
});

t.test('Google and custom destinations that fit', async t => {
  const gcp = { provider: 'gcp', bucket: 'acme', region: 'europe-west1' } as const;
  const custom = {
    provider: 'custom',
    endpoint: 'https://minio.example.com',
    bucket: 'acme',
    region: 'auto',
  } as const;
  const good: [DestinationBody, object][] = [
    [gcp, { key: '', endpoint: null }],
    [
      { ...gcp, key: ' /exports/daily/ ', bucket: ' acme ', region: ' EU\n' },
      { key: 'exports/daily', region: 'EU', bucket: 'acme' },
    ],
    [{ ...gcp, bucket: 'data_1.acme.com' }, { bucket: 'data_1.acme.com' }],
    [{ ...gcp, bucket: `${'a'.repeat(63)}.${'b'.repeat(63)}` }, {}],
    [custom, { endpoint: 'https://minio.example.com', region: 'auto' }],
    [
      { ...custom, endpoint: ' https://MinIO.example.com:9000/ ' },
      { endpoint: 'https://minio.example.com:9000' },
    ],
    [
      { ...custom, endpoint: 'https://minio.example.com:443' },
      { endpoint: 'https://minio.example.com' },
    ],
    [{ ...custom, endpoint: 'http://10.1.2.3:9000' }, { endpoint: 'http://10.1.2.3:9000' }],
    [
      { ...custom, endpoint: 'https://[2001:DB8::1]:9000' },
      { endpoint: 'https://[2001:db8::1]:9000' },
    ],
    [
      { ...custom, endpoint: 'https://bücher.example' },
      { endpoint: 'https://xn--bcher-kva.example' },
    ],
    [{ ...custom, endpoint: 'https://0x7f.1' }, { endpoint: 'https://127.0.0.1' }],
    [{ ...custom, endpoint: 'https://2130706433' }, { endpoint: 'https://127.0.0.1' }],
    [{ ...custom, bucket: 'Acme_Data', region: 'RegionOne', key: 'a b/ü' }, { key: 'a b/ü' }],
    [{ ...custom, key: 'k'.repeat(maxKeyBytes) }, {}],
    [{ ...custom, key: '///' }, { key: '' }],
  ];
  for (const [body, expected] of good) {
    const parsed = parseDestination(body);
    t.equal(parsed.ok, true, JSON.stringify(body));
    if (parsed.ok) t.match(parsed.value, { provider: body.provider, ...expected });
  }
});

t.test('Google and custom destinations that do not fit', async t => {
  const gcp = { provider: 'gcp', bucket: 'acme', region: 'europe-west1' } as const;
  const custom = {
    provider: 'custom',
    endpoint: 'https://minio.example.com',
    bucket: 'acme',
    region: 'auto',
  } as const;
  const bad: [DestinationBody, string, RegExp][] = [
    [{ ...gcp, bucket: 'Acme' }, '/bucket', /lower-case/],
    [{ ...gcp, bucket: 'googacme' }, '/bucket', /goog/],
    [{ ...gcp, bucket: 'acme_' }, '/bucket', /both ends/],
    [{ ...gcp, bucket: `${'a'.repeat(64)}.com` }, '/bucket', /63/],
    [{ ...gcp, bucket: 'a/b/c' }, '/bucket', /bucket name/],
    [{ ...gcp, bucket: '10.0.0.1' }, '/bucket', /IP address/],
    [{ ...gcp, region: '' }, '/region', /region such as/],
    [{ ...gcp, region: 'europe west1' }, '/region', /region such as/],
    [{ ...gcp, region: 'a/../b' }, '/region', /region such as/],
    [{ ...gcp, region: 'r'.repeat(64) }, '/region', /region such as/],
    [{ ...gcp, key: 'a//b' }, '/key', /empty segments/],
    [{ ...gcp, key: 'a/../b' }, '/key', /"\.\."/],
    [{ ...gcp, key: 'a\u0000b' }, '/key', /control/],
    [{ ...gcp, key: 'a\u0085b' }, '/key', /control/],
    [{ ...gcp, key: 'ä'.repeat(Math.ceil((maxKeyBytes + 1) / 2)) }, '/key', /longer than/],
    [{ ...gcp, endpoint: 'https://storage.googleapis.com' }, '/endpoint', /does not belong/],
    [
      { ...gcp, bucketUrl: 'https://acme.s3.eu-west-1.amazonaws.com' },
      '/bucketUrl',
      /does not belong/,
    ],
    [{ ...custom, endpoint: 'minio.example.com' }, '/endpoint', /https:\/\//],
    [{ ...custom, endpoint: 'ftp://minio.example.com' }, '/endpoint', /https:\/\//],
    [{ ...custom, endpoint: 'https://minio.example.com/acme' }, '/endpoint', /path or query/],
    [{ ...custom, endpoint: 'https://minio.example.com/a/../' }, '/endpoint', /path or query/],
    [{ ...custom, endpoint: 'https://minio.example.com?x' }, '/endpoint', /path or query/],
    [{ ...custom, endpoint: 'https://minio.example.com/#x' }, '/endpoint', /path or query/],
    [{ ...custom, endpoint: 'https://u:p@minio.example.com' }, '/endpoint', /user or password/],
    [{ ...custom, endpoint: 'https://@minio.example.com' }, '/endpoint', /user or password/],
    [{ ...custom, endpoint: 'https://minio.example.com:99999' }, '/endpoint', /not a URL/],
    [{ ...custom, endpoint: 'https://minio.example.com:0' }, '/endpoint', /cannot be reached/],
    [{ ...custom, endpoint: 'https://mi nio.example.com' }, '/endpoint', /not a URL/],
    [{ ...custom, endpoint: 'https://minio.example.com\\x' }, '/endpoint', /not a URL/],
    [{ ...custom, endpoint: 'https://minio\t.example.com' }, '/endpoint', /not a URL/],
    [{ ...custom, endpoint: 'https://' }, '/endpoint', /not a URL/],
    [{ ...custom, endpoint: 'https:///minio.example.com' }, '/endpoint', /path or query/],
    [{ ...custom, endpoint: 'https://[::1' }, '/endpoint', /not a URL/],
    [{ ...custom, endpoint: 'https://256.256.256.256' }, '/endpoint', /not a URL/],
    [{ ...custom, bucket: 'acme--use1-az4--x-s3' }, '/bucket', /directory bucket/],
    [{ ...custom, bucket: 'ac?me' }, '/bucket', /bucket name/],
    [{ ...custom, bucket: '..' }, '/bucket', /bucket name/],
  ];
  for (const [body, path, message] of bad) {
    const faults = faultsOf(body);
    t.equal(faults.length, 1, JSON.stringify(body).slice(0, 120));
    t.equal(faults[0]?.path, path);
    t.match(faults[0]?.message, message);
  }
});

t.test('missing and foreign fields are all named at once', async t => {
  t.strictSame(
    faultsOf({ provider: 'custom' }).map(fault => fault.path),
    ['/endpoint', '/bucket', '/region'],
  );
  t.strictSame(faultsOf({ provider: 'aws', bucket: 'acme', key: '' }), [
    { path: '/bucket', message: 'does not belong to the provider "aws"' },
    { path: '/key', message: 'does not belong to the provider "aws"' },
    { path: '/bucketUrl', message: 'is required' },
  ]);
});

t.test('credentials are trimmed, and refused where a header could not carry them', async t => {
  t.strictSame(parseCredentials({ accessKeyId: ' AKIA1 \n', secretAccessKey: '\tab/c+d= ' }), {
    ok: true,
    value: { accessKeyId: 'AKIA1', secretAccessKey: 'ab/c+d=' },
  });
  const paths = (accessKeyId: string, secretAccessKey: string) => {
    const parsed = parseCredentials({ accessKeyId, secretAccessKey });
    return parsed.ok ? [] : parsed.faults.map(fault => fault.path);
  };
  t.strictSame(paths(' ', ''), ['/accessKeyId', '/secretAccessKey']);
  t.strictSame(paths('AKIA 1', 's'), ['/accessKeyId']);
  t.strictSame(paths('AKIA/2', 's'), ['/accessKeyId']);
  t.strictSame(paths('AKIA\r\nX: y', 's\u0000'), ['/accessKeyId', '/secretAccessKey']);
  t.strictSame(paths('ÄKIA', 's'.repeat(257)), ['/accessKeyId', '/secretAccessKey']);
});

t.test('object names', async t => {
  t.equal(
    objectKey('exports/bucket', 'prod', '2026-03-02', 'none'),
    'exports/bucket/company-adoption_prod_2026-03-02.csv',
  );
  t.equal(objectKey('', 'prod', '2026-03-02', 'gzip'), 'company-adoption_prod_2026-03-02.csv.gz');
  t.equal(
    manifestKey('exports', 'prod', '2026-03-02'),
    'exports/_manifest/company-adoption_prod_2026-03-02.json',
  );
  t.equal(manifestKey('', 'prod', '2026-03-02'), '_manifest/company-adoption_prod_2026-03-02.json');
  const longest = manifestKey('k'.repeat(maxKeyBytes), 'e'.repeat(64), '2026-03-02');
  t.equal(
    Buffer.byteLength(longest),
    1024,
    'the longest folder fills the 1,024 bytes that S3 allows',
  );
});
