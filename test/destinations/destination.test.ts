import fc from 'fast-check';
import t from 'tap';
import { formatBucketUrl } from '../../src/destinations/bucket-url.ts';
import {
  type DestinationBody,
  parseCredentials,
  parseDestination,
} from '../../src/destinations/destination.ts';
import {
  folderOf,
  longestName,
  manifestKey,
  maxKeyBytes,
  objectKey,
} from '../../src/destinations/object-key.ts';
import { seed } from '../helpers/scale.ts';

const aws = (bucketUrl: string) => parseDestination({ provider: 'aws', bucketUrl });
const errorsOf = (body: DestinationBody) => {
  const parsed = parseDestination(body);
  return parsed.ok ? [] : parsed.errors;
};

t.test('accepts valid Amazon bucket URLs and splits them into their fields', async t => {
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
    ['https://acme.s3.eu-west-1.amazonaws.com/a%2Bb', 'acme', 'eu-west-1', 'a+b'],
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
      `${bucket} ${key} is unchanged after it is written as a URL and parsed again`,
    );
  }
});

t.test('rejects invalid Amazon bucket URLs and says how to write them', async t => {
  const bad: [string, RegExp][] = [
    ['', /must look like https:\/\/<bucket>/],
    ['acme', /must look like/],
    ['acme.s3.eu-west-1.amazonaws.com', /must start with https/],
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
    ['https://acme.s3.EU-WEST-1.amazonaws.com', /lower case/],
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
    ['https://acme.s3.eu-west-1.amazonaws.com/a+b', /"%20" for a space and "%2B" for a plus/],
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
    t.equal(parsed.errors.length, 1);
    t.equal(parsed.errors[0]?.path, '/bucketUrl');
    t.match(parsed.errors[0]?.message, message, JSON.stringify(url.slice(0, 80)));
  }
});

t.test('accepts valid Google and custom destinations', async t => {
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
    [
      { ...custom, endpoint: 'https://ABC.supabase.co/storage/v1/s3/ ' },
      { endpoint: 'https://abc.supabase.co/storage/v1/s3' },
    ],
    [{ ...custom, bucket: 'tenant_1:Acme' }, { bucket: 'tenant_1:Acme' }],
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

t.test('rejects invalid Google and custom destinations', async t => {
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
    ...['/a/../b', '/./a', '//a', '/a//b', '/a%2fb', '/a b', '?x', '/#x', '/a?x'].map(
      (path): [DestinationBody, string, RegExp] => [
        { ...custom, endpoint: `https://minio.example.com${path}` },
        '/endpoint',
        path === '/a b' ? /not a URL/ : /simple path/,
      ],
    ),
    ...['tenant:', ':acme', 'a:b:acme', 'te-nant:acme', 'tenant:-a'].map(
      (bucket): [DestinationBody, string, RegExp] => [
        { ...custom, bucket },
        '/bucket',
        /must be a bucket name/,
      ],
    ),
    [{ ...gcp, bucket: 'tenant:acme' }, '/bucket', /must be a bucket name/],
    [{ ...custom, endpoint: 'https://u:p@minio.example.com' }, '/endpoint', /user or password/],
    [{ ...custom, endpoint: 'https://@minio.example.com' }, '/endpoint', /user or password/],
    [{ ...custom, endpoint: 'https://minio.example.com:99999' }, '/endpoint', /not a URL/],
    [{ ...custom, endpoint: 'https://minio.example.com:0' }, '/endpoint', /cannot be reached/],
    [{ ...custom, endpoint: 'https://mi nio.example.com' }, '/endpoint', /not a URL/],
    [{ ...custom, endpoint: 'https://minio.example.com\\x' }, '/endpoint', /not a URL/],
    [{ ...custom, endpoint: 'https://minio\t.example.com' }, '/endpoint', /not a URL/],
    [{ ...custom, endpoint: 'https://' }, '/endpoint', /not a URL/],
    [{ ...custom, endpoint: 'https:///minio.example.com' }, '/endpoint', /simple path/],
    [{ ...custom, endpoint: 'https://[::1' }, '/endpoint', /not a URL/],
    [{ ...custom, endpoint: 'https://256.256.256.256' }, '/endpoint', /not a URL/],
    [{ ...custom, bucket: 'acme--use1-az4--x-s3' }, '/bucket', /directory bucket/],
    [{ ...custom, bucket: 'ac?me' }, '/bucket', /bucket name/],
    [{ ...custom, bucket: '..' }, '/bucket', /bucket name/],
  ];
  for (const [body, path, message] of bad) {
    const errors = errorsOf(body);
    t.equal(errors.length, 1, JSON.stringify(body).slice(0, 120));
    t.equal(errors[0]?.path, path);
    t.match(errors[0]?.message, message);
  }
});

t.test('reports all missing and foreign fields in one answer', async t => {
  t.strictSame(
    errorsOf({ provider: 'custom' }).map(error => error.path),
    ['/endpoint', '/bucket', '/region'],
  );
  t.strictSame(errorsOf({ provider: 'aws', bucket: 'acme', key: '' }), [
    { path: '/bucket', message: 'does not belong to the provider "aws"' },
    { path: '/key', message: 'does not belong to the provider "aws"' },
    { path: '/bucketUrl', message: 'is required' },
  ]);
});

t.test('trims credentials and rejects those that a header cannot carry', async t => {
  t.strictSame(parseCredentials({ accessKeyId: ' AKIA1 \n', secretAccessKey: '\tab/c+d= ' }), {
    ok: true,
    value: { accessKeyId: 'AKIA1', secretAccessKey: 'ab/c+d=' },
  });
  const paths = (accessKeyId: string, secretAccessKey: string) => {
    const parsed = parseCredentials({ accessKeyId, secretAccessKey });
    return parsed.ok ? [] : parsed.errors.map(error => error.path);
  };
  t.strictSame(paths(' ', ''), ['/accessKeyId', '/secretAccessKey']);
  t.strictSame(paths('AKIA 1', 's'), ['/accessKeyId']);
  t.strictSame(paths('AKIA/2', 's'), ['/accessKeyId']);
  t.strictSame(paths('AKIA\r\nX: y', 's\u0000'), ['/accessKeyId', '/secretAccessKey']);
  t.strictSame(paths('ÄKIA', 's'.repeat(257)), ['/accessKeyId', '/secretAccessKey']);
});

const name = {
  environmentId: 'prod',
  snapshotDate: '2026-03-02',
  format: 'csv',
  compression: 'none',
} as const;

t.test('builds the keys of objects and manifests', async t => {
  const gzip = { ...name, compression: 'gzip' } as const;
  t.equal(objectKey('exports/bucket', name), 'exports/bucket/company-adoption_prod_2026-03-02.csv');
  t.equal(objectKey('', gzip), 'company-adoption_prod_2026-03-02.csv.gz');
  t.equal(
    manifestKey('exports', name),
    'exports/_manifest/company-adoption_prod_2026-03-02.csv.json',
  );
  t.equal(manifestKey('', gzip), '_manifest/company-adoption_prod_2026-03-02.csv.gz.json');
  const parquet = { ...name, format: 'parquet' } as const;
  t.equal(objectKey('', parquet), 'company-adoption_prod_2026-03-02.parquet');
  t.equal(manifestKey('', parquet), '_manifest/company-adoption_prod_2026-03-02.parquet.json');
  t.equal(
    Buffer.byteLength(manifestKey('k'.repeat(maxKeyBytes), longestName)),
    1024,
    'the longest folder and name together have the 1,024 bytes that S3 allows',
  );
});

t.test('replaces placeholders in folders', async t => {
  const folders: [string, string][] = [
    ['exports/date={date}', 'exports/date=2026-03-02/'],
    ['{year}/{month}/{day}', '2026/03/02/'],
    ['{environmentId}/y{year}{year}', 'prod/y20262026/'],
    ['no placeholder', 'no placeholder/'],
  ];
  for (const [folder, rendered] of folders) {
    t.equal(folderOf(objectKey(folder, name)), rendered, folder);
    t.equal(folderOf(manifestKey(folder, name)), `${rendered}_manifest/`, folder);
    const parsed = aws(`https://acme.s3.eu-west-1.amazonaws.com/${encodeURI(folder)}`);
    t.equal(parsed.ok && parsed.value.key, folder);
    t.equal(parsed.ok && formatBucketUrl(parsed.value).includes('{'), folder.includes('{'));
  }
});

t.test('rejects unknown placeholders', async t => {
  const custom = {
    provider: 'custom',
    endpoint: 'https://minio.example.com',
    bucket: 'acme',
    region: 'auto',
  } as const;
  for (const [key, shown] of [
    ['{hour}', '{hour}'],
    ['{Year}', '{Year}'],
    ['{ date }', '{ date }'],
    ['{}', '{}'],
    ['{constructor}', '{constructor}'],
    ['a{date', '{'],
    ['a}b', '}'],
    ['{{date}}', '{'],
    ['{date}/{toString}', '{toString}'],
  ] as const) {
    const [error, ...others] = errorsOf({ ...custom, key });
    t.equal(error?.path, '/key', key);
    t.ok(error?.message.includes(`"${shown}"`), key);
    t.match(error?.message, /\{date\}, \{year\}, \{month\}, \{day\}, \{environmentId\}/);
    t.equal(others.length, 0);
    const url = `https://acme.s3.eu-west-1.amazonaws.com/${encodeURIComponent(key)}`;
    t.equal(errorsOf({ provider: 'aws', bucketUrl: url })[0]?.path, '/bucketUrl');
  }
  const long = `{environmentId}${'k'.repeat(maxKeyBytes - 63)}`;
  t.match(
    errorsOf({ ...custom, key: long })[0]?.message,
    /longer than/,
    'counts the longest values of placeholders',
  );
  t.strictSame(errorsOf({ ...custom, key: long.slice(0, -1) }), []);
});

t.test('suggests how to write an Amazon bucket URL, as far as the input allows', async t => {
  const eu = 'https://acme.s3.eu-west-1.amazonaws.com';
  const noRegion = 'https://acme.s3.<region>.amazonaws.com';
  const noBucket = 'https://<bucket>.s3.eu-west-1.amazonaws.com/<folder>';
  const table: [string, RegExp, string][] = [
    ['s3://acme/exports/daily/', /not an s3:\/\/ one/, `${noRegion}/exports/daily`],
    ['S3A://acme', /not an s3a:\/\/ one/, noRegion],
    ['s3://acme/my folder', /s3:/, `${noRegion}/my%20folder`],
    ['arn:aws:s3:::acme/exports', /not an ARN/, `${noRegion}/exports`],
    ['arn:aws:s3:::acme', /not an ARN/, noRegion],
    ['arn:aws:s3:eu-west-1:123456789012:accesspoint/point', /access point/, noBucket],
    [
      'arn:aws:s3::123456789012:accesspoint/alias.mrap',
      /access point/,
      'https://<bucket>.s3.<region>.amazonaws.com/<folder>',
    ],
    [
      'https://point-123456789012.s3-accesspoint.eu-west-1.amazonaws.com/exports',
      /access point/,
      noBucket,
    ],
    [
      'https://alias.mrap.accesspoint.s3-global.amazonaws.com',
      /access point/,
      'https://<bucket>.s3.<region>.amazonaws.com/<folder>',
    ],
    ['https://p-1.op-1.s3-outposts.eu-west-1.amazonaws.com', /access point/, noBucket],
    [
      'https://acme.s3-fips.us-east-1.amazonaws.com/a',
      /"fips"/,
      'https://acme.s3.us-east-1.amazonaws.com/a',
    ],
    [
      'https://s3-fips.us-gov-west-1.amazonaws.com/acme/a',
      /"fips"/,
      'https://acme.s3.us-gov-west-1.amazonaws.com/a',
    ],
    [
      'https://acme.s3-fips.dualstack.us-east-1.amazonaws.com',
      /"fips"/,
      'https://acme.s3.us-east-1.amazonaws.com',
    ],
    ['https://acme.s3.dualstack.eu-west-1.amazonaws.com/a', /"dualstack"/, `${eu}/a`],
    ['https://s3.dualstack.eu-west-1.amazonaws.com/acme/a', /"dualstack"/, `${eu}/a`],
    ['https://acme.s3-accelerate.amazonaws.com/a', /"accelerate"/, `${noRegion}/a`],
    ['https://s3.eu-west-1.amazonaws.com/acme/exports/', /not in the path/, `${eu}/exports`],
    ['https://s3-eu-west-1.amazonaws.com/acme', /not in the path/, eu],
    ['https://s3.amazonaws.com/acme/a', /not in the path/, `${noRegion}/a`],
    [
      'https://s3.cn-north-1.amazonaws.com.cn/acme',
      /not in the path/,
      'https://acme.s3.cn-north-1.amazonaws.com.cn',
    ],
    ['https://acme.s3.amazonaws.com/a', /must name the region/, `${noRegion}/a`],
    ['https://acme.s3-eu-west-1.amazonaws.com/a', /with a dot/, `${eu}/a`],
    ['http://acme.s3-website-eu-west-1.amazonaws.com', /website/, eu],
    ['http://acme.s3-website.eu-west-1.amazonaws.com', /website/, eu],
    ['http://acme.s3.eu-west-1.amazonaws.com/a', /must start with https/, `${eu}/a`],
    ['acme.s3.eu-west-1.amazonaws.com/a', /must start with https/, `${eu}/a`],
    ['https://user:pass@acme.s3.eu-west-1.amazonaws.com/a', /user or password/, `${eu}/a`],
    ['https://acme.s3.eu-west-1.amazonaws.com:443/a', /port/, `${eu}/a`],
    ['https://acme.s3.eu-west-1.amazonaws.com/a?versionId=1', /"\?" or "#"/, `${eu}/a`],
    ['https://ACME.S3.eu-west-1.AmazonAWS.com/A', /lower case/, `${eu}/A`],
    [
      'https://eu-west-1.console.aws.amazon.com/s3/buckets/acme?region=eu-west-1&tab=objects',
      /console/,
      eu,
    ],
    [
      'https://s3.console.aws.amazon.com/s3/buckets/acme?prefix=my+folder/x/&region=eu-west-1',
      /console/,
      `${eu}/my%20folder/x`,
    ],
    ['https://eu-west-1.console.aws.amazon.com/s3/buckets/acme', /console/, eu],
    [
      'https://s3.console.aws.amazon.com/s3/home',
      /console/,
      'https://<bucket>.s3.<region>.amazonaws.com/<folder>',
    ],
    [
      'https://bucket.vpce-1a2b3c4d-5e6f.s3.eu-west-1.vpce.amazonaws.com/acme',
      /VPC endpoint/,
      noBucket,
    ],
  ];
  const oneZone = 's3express-use1-az4.us-east-1.amazonaws.com';
  const noBucketUs = 'https://<bucket>.s3.us-east-1.amazonaws.com/<folder>';
  table.push(
    ['https://s3.eu-west-1.amazonaws.com/acme/a+b', /not in the path/, `${eu}/<folder>`],
    ['https://s3.eu-west-1.amazonaws.com/acme/100%', /not in the path/, `${eu}/<folder>`],
    ['http://acme.s3.eu-west-1.amazonaws.com/a//b', /must start with https/, `${eu}/<folder>`],
    ['http://acme.s3.eu-west-1.amazonaws.com/my folder', /https/, `${eu}/my%20folder`],
    ['http://acme.s3.eu-west-1.amazonaws.com/%7Bdate%7D', /https/, `${eu}/{date}`],
    ['s3://acme/a+b', /s3:/, `${noRegion}/a%2Bb`],
    ['s3://acme/{hour}', /s3:/, `${noRegion}/<folder>`],
    [
      'https://acme.s3.cn-north-1.amazonaws.com/my folder',
      /regions of China/,
      'https://acme.s3.cn-north-1.amazonaws.com.cn/my%20folder',
    ],
    [`https://acme--use1-az4--x-s3.${oneZone}/a`, /"acme--use1.*general purpose/, noBucketUs],
    [`https://${oneZone}/acme--use1-az4--x-s3/a`, /"acme--use1.*general purpose/, noBucketUs],
    [`https://${oneZone}`, /must be a bucket name/, noBucketUs],
  );
  for (const [url, what, better] of table) {
    const [error] = errorsOf({ provider: 'aws', bucketUrl: url });
    t.match(error?.message, what, url);
    t.ok(error?.message.endsWith(` write ${better}`), `${url}: ${error?.message}`);
  }
  for (const [url, provider] of [
    ['gs://acme/exports', 'gcp'],
    ['https://storage.googleapis.com/acme', 'gcp'],
    ['https://console.cloud.google.com/storage/browser/acme', 'gcp'],
    ['https://abc.r2.cloudflarestorage.com/acme', 'custom'],
    ['https://acme.fra1.digitaloceanspaces.com', 'custom'],
    ['https://s3.eu-central-003.backblazeb2.com/acme', 'custom'],
    ['https://s3.eu-central-1.wasabisys.com', 'custom'],
  ] as const) {
    const [error] = errorsOf({ provider: 'aws', bucketUrl: url });
    t.match(error?.message, `use "provider": "${provider}"`, url);
  }
});

t.test('accepts every Amazon bucket URL that it suggests', async t => {
  const start = fc.constantFrom(
    's3://acme/',
    'arn:aws:s3:::acme/',
    'https://s3.eu-west-1.amazonaws.com/acme/',
    'https://s3-fips.us-gov-west-1.amazonaws.com/acme/',
    'https://s3.cn-north-1.amazonaws.com.cn/acme/',
    'http://acme.s3.eu-west-1.amazonaws.com/',
    'https://ACME.s3.eu-west-1.amazonaws.com/',
    'https://user@acme.s3.eu-west-1.amazonaws.com:443/',
    'https://acme.s3.amazonaws.com/',
    'https://acme.s3.eu-west-1.amazonaws.com.cn/',
    'https://acme.s3.cn-north-1.amazonaws.com/',
    'https://eu-west-1.console.aws.amazon.com/s3/buckets/acme/',
    'https://s3.console.aws.amazon.com/s3/buckets/acme?region=eu-west-1&prefix=',
  );
  const piece = fc.constantFrom(
    ...['a', '/', '//', '..', '+', '%', '%2B', '%20', '%2F', '%00', '%ff', ' ', '?', '#', '&', ':'],
    ...['ä', '\ud800', '{date}', '{hour}', '{', '\n', 'k'.repeat(maxKeyBytes)],
  );
  const folder = fc.array(piece, { maxLength: 4 }).map(pieces => pieces.join(''));
  let suggestions = 0;
  fc.assert(
    fc.property(start, folder, (url, path) => {
      const [error] = errorsOf({ provider: 'aws', bucketUrl: url + path });
      const suggestion = / write (https:.*)$/s.exec(error?.message ?? '')?.[1];
      if (suggestion === undefined) return;
      suggestions += 1;
      const pasted = suggestion
        .replace('<bucket>', 'acme')
        .replace('<region>', 'eu-west-1')
        .replace('<folder>', 'exports');
      const refused = errorsOf({ provider: 'aws', bucketUrl: pasted });
      if (refused.length > 0) throw new Error(`${suggestion}: ${refused[0]?.message}`);
    }),
    { numRuns: 2_000, seed },
  );
  t.ok(suggestions > 200, `${suggestions} suggestions`);
});

t.test('rejects an endpoint whose host certainly contains the bucket', async t => {
  const custom = { provider: 'custom', bucket: 'acme', region: 'auto' } as const;
  const account = '0123456789abcdef0123456789abcdef';
  for (const host of [
    'fra1.digitaloceanspaces.com',
    's3.eu-central-003.backblazeb2.com',
    's3.eu-central-1.wasabisys.com',
    's3.wasabisys.com',
    `${account}.r2.cloudflarestorage.com`,
    `${account}.eu.r2.cloudflarestorage.com`,
    'eu-central-1.linodeobjects.com',
    's3.fr-par.scw.cloud',
    's3.gra.io.cloud.ovh.net',
    'fsn1.your-objectstorage.com',
    'oss-eu-central-1.aliyuncs.com',
    's3.eu-west-1.amazonaws.com',
    'storage.googleapis.com',
  ]) {
    for (const form of [host, `${host}.`, host.toUpperCase()]) {
      t.strictSame(errorsOf({ ...custom, endpoint: `https://acme.${form}` }), [
        {
          path: '/endpoint',
          message: `names more than the storage: leave the bucket out of the endpoint, write https://${host}`,
        },
      ]);
    }
    t.strictSame(errorsOf({ ...custom, endpoint: `https://${host}` }), []);
    const [error] = errorsOf({ ...custom, endpoint: `https://${host}/acme` });
    t.match(error?.message, /leave the bucket out of the endpoint, write https:\/\/[^/]+$/);
  }
  for (const [bucket, host] of [
    ['fra1', 'fra1.digitaloceanspaces.com'],
    ['minio', 'minio.example.com'],
    ['acme', 'acme.example.com'],
  ] as const) {
    t.strictSame(errorsOf({ ...custom, bucket, endpoint: `https://${host}` }), [], host);
  }
});
