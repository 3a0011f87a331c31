import t from 'tap';
import type { Destination } from '../../src/destinations/destination.ts';
import { canWriteSameObject } from '../../src/destinations/same-object.ts';

const custom: Destination = {
  provider: 'custom',
  endpoint: 'https://minio.example.com',
  bucket: 'acme',
  region: 'us-east-1',
  key: 'exports',
};
const aws: Destination = { ...custom, provider: 'aws', endpoint: null, region: 'eu-west-1' };
const gcp: Destination = { ...custom, provider: 'gcp', endpoint: null, region: 'EU' };

function meet(one: Destination, other: Destination): boolean {
  const form = { format: 'csv', compression: 'none' } as const;
  const results = [
    canWriteSameObject('prod', { destination: one, ...form }, { destination: other, ...form }),
    canWriteSameObject('prod', { destination: other, ...form }, { destination: one, ...form }),
  ];
  if (results[0] !== results[1]) throw new Error('the order matters');
  return results[0] === true;
}

t.test('compares buckets by provider, endpoint and name', async t => {
  const table: [Destination, Destination, boolean, string][] = [
    [custom, custom, true, 'the same'],
    [custom, { ...custom, region: 'auto' }, true, 'another region label'],
    [custom, { ...custom, endpoint: 'http://minio.example.com' }, true, 'http and https'],
    [custom, { ...custom, endpoint: 'https://minio.example.com.' }, true, 'a trailing dot'],
    [custom, { ...custom, endpoint: 'https://minio.example.com:9000' }, false, 'another port'],
    [custom, { ...custom, endpoint: 'https://other.example.com' }, false, 'another host'],
    [custom, { ...custom, endpoint: `${custom.endpoint}/s3` }, false, 'another path'],
    [custom, { ...custom, bucket: 'Acme' }, false, 'another bucket'],
    [custom, { ...custom, bucket: 'tenant:acme' }, true, 'with a tenant of Ceph'],
    [custom, { ...custom, bucket: 'tenant:other' }, false, 'another bucket of a tenant'],
    [custom, { ...custom, bucket: 'tenant:my-acme' }, false, 'a bucket with the same end'],
    [{ ...custom, bucket: 'one:acme' }, { ...custom, bucket: 'two:acme' }, false, 'two tenants'],
    [
      { ...custom, endpoint: 'https://other.example.com' },
      { ...custom, bucket: 'tenant:acme' },
      false,
      'a tenant at another host',
    ],
    [custom, aws, false, 'another provider'],
    [aws, { ...aws, region: 'us-east-1' }, true, 'names are unique at Amazon'],
    [aws, { ...aws, region: 'cn-north-1' }, false, 'another partition of Amazon'],
    [aws, gcp, false, 'Amazon and Google'],
    [gcp, { ...gcp, region: 'europe-west1' }, true, 'names are unique at Google'],
    [gcp, { ...custom, endpoint: 'https://storage.googleapis.com' }, true, 'Google as custom'],
    [aws, { ...custom, endpoint: 'https://s3.eu-west-1.amazonaws.com' }, true, 'Amazon as custom'],
    [aws, { ...custom, endpoint: 'https://s3.amazonaws.com' }, true, 'Amazon as custom, global'],
    [aws, { ...custom, endpoint: 'https://s3.cn-north-1.amazonaws.com.cn' }, false, 'China'],
  ];
  for (const [one, other, expected, title] of table) t.equal(meet(one, other), expected, title);
  const csv = { destination: custom, format: 'csv', compression: 'none' } as const;
  t.equal(canWriteSameObject('prod', csv, { ...csv, compression: 'gzip' }), false);
  t.equal(canWriteSameObject('prod', csv, { ...csv, format: 'parquet' }), false);
});

t.test('compares folders by the values that placeholders can have', async t => {
  const table: [string, string, boolean][] = [
    ['', '', true],
    ['a', 'b', false],
    ['a', 'a/b', false],
    ['{date}', '{date}', true],
    ['{date}', '{year}-{month}-{day}', true],
    ['{year}/{month}', '{year}/{day}', true],
    ['{year}', '2026', true],
    ['{year}', '1999', false],
    ['{year}', '{month}{day}', false],
    ['{year}', '{month}26', false],
    ['{year}', '{day}26', true],
    ['{month}', '13', false],
    ['{month}', '12', true],
    ['{month}/{day}', '02/30', false],
    ['{month}/{day}', '02/29', true],
    ['{year}/{month}/{day}', '2025/02/29', false],
    ['{date}', '2026-03-02', true],
    ['{date}', '2026-03-2', false],
    ['{day}/x', '01/y', false],
    ['{environmentId}', 'prod', true],
    ['{environmentId}', 'test', false],
    ['{environmentId}/{date}', 'prod/2026-03-02', true],
    ['{day}/{day}', '01/02', false],
    ['{day}/{month}', '{month}/{day}', true],
  ];
  for (const [one, other, expected] of table) {
    t.equal(meet({ ...custom, key: one }, { ...custom, key: other }), expected, `${one} ${other}`);
  }
});

t.test('decides the most expensive pair of folders within 200 ms of CPU time', async t => {
  const hardest = [
    `{year}{month}{day}/31/${'{day}'.repeat(100)}`,
    `{year}{month}{day}/{day}/${'30'.repeat(100)}`,
  ];
  const measure = () => {
    const started = process.cpuUsage();
    const [one = '', other = ''] = hardest;
    t.equal(meet({ ...custom, key: one }, { ...custom, key: other }), false);
    const { user, system } = process.cpuUsage(started);
    return (user + system) / 1000;
  };
  // The first decision compiles code.
  const cpuMs = [measure(), measure()];
  t.ok(Math.min(...cpuMs) < 200, `${cpuMs} ms of CPU for both orders`);
});
