import t from 'tap';
import { startTestApp } from '../helpers/app.ts';

/**
 * Changes that send a config back as it was read. No server listens at the destinations, so a check
 * of the bucket fails.
 */

const app = await startTestApp(t);
await app.putEnvironment('acme');
const { pool } = app.database;
const path = '/v1/environments/acme/export-configs';
const insert = (id: string, columns: object) => {
  const at = '2026-03-01T10:00:00Z';
  const row = {
    environment_id: 'acme',
    id,
    name: 'Nightly',
    enabled: true,
    schedule: 'daily',
    region: 'eu-west-1',
    key: 'exports/date={date}',
    access_key_id: 'AKIAEXAMPLE',
    sealed_secret: 'sealed',
    compression: 'none',
    manifest: true,
    active_since: at,
    created_at: at,
    updated_at: at,
    ...columns,
  };
  const places = Object.keys(row).map((_name, index) => `$${index + 1}`);
  const text = `insert into export_configs (${Object.keys(row)}) values (${places})`;
  return pool.query(text, Object.values(row));
};
await insert('aws', {
  provider: 'aws',
  bucket: 'acme',
  encryption: 'aws:kms',
  kms_key_id: 'alias/x',
});
await insert('role', {
  provider: 'aws',
  bucket: 'acme',
  access_key_id: null,
  sealed_secret: null,
  role_arn: 'arn:aws:iam::123456789012:role/exports',
  external_id: 'id-of-acme',
});
await insert('root', { provider: 'aws', bucket: 'acme', region: 'cn-north-1', key: '' });
await insert('gcp', { provider: 'gcp', bucket: 'acme_exports', compression: 'gzip' });
await insert('custom', {
  provider: 'custom',
  bucket: 'acme',
  endpoint: 'https://s3.example.com:9000',
  encryption: 'AES256',
  enabled: false,
  turned_off_at: '2026-03-01T12:00:00Z',
  turned_off_message: '10 slots in a row failed.',
});
await pool.query(
  `insert into export_runs (environment_id, config_id, id, trigger, snapshot_date, state, created_at, finished_at, error_code, error_message)
   select environment_id, id, 'run-' || id, 'manual', '2026-02-28', 'failed', now(), now(), 'timeout', 'It took too long.'
   from export_configs`,
);
const read = async (id: string) => (await app.call(`${path}/${id}`)).json;
const patch = (id: string, json: object) => app.call(`${path}/${id}`, { method: 'PATCH', json });
const stored = async () => (await pool.query('select * from export_configs order by id')).rows;
const before = await stored();

t.test('accepts every config as it was read, and changes and checks nothing', async t => {
  app.setNow('2026-03-04T10:00:00.000Z');
  for (const { id } of before) {
    const config = await read(id);
    const answer = await patch(id, config);
    t.equal(answer.status, 200, answer.text);
    t.strictSame(answer.json, config);
    t.strictSame(await read(id), config);
  }
  t.strictSame(await stored(), before);
  t.equal(
    (await pool.query(`select from audit_log where action like 'export_config%'`)).rowCount,
    0,
  );
});

t.test('ignores other values of read-only properties', async t => {
  const others = { id: 'x', createdAt: 7, updatedAt: null, status: { status: 'successful' } };
  for (const { id } of before) t.equal((await patch(id, others)).status, 200);
  t.strictSame(await stored(), before);
});

t.test('changes one field of a config that is sent as it was read', async t => {
  const config = await read('aws');
  const { json } = await patch('aws', { ...config, name: 'Renamed' });
  t.match(json, {
    name: 'Renamed',
    bucketUrl: config.bucketUrl,
    updatedAt: '2026-03-04T10:00:00.000Z',
  });
  t.equal((await patch('aws', { ...config, name: 'Nightly' })).status, 200);
});

t.test('accepts null only for fields of other providers', async t => {
  const table: [id: string, body: object, path: string | null][] = [
    ['aws', { bucket: null, region: null, key: null, endpoint: null }, null],
    ['gcp', { bucketUrl: null, endpoint: null }, null],
    ['custom', { bucketUrl: null }, null],
    ['aws', { bucketUrl: null }, '/bucketUrl'],
    ['gcp', { bucket: null }, '/bucket'],
    ['gcp', { key: null }, '/key'],
    ['custom', { endpoint: null }, '/endpoint'],
    ['custom', { region: null }, '/region'],
    ['gcp', { name: null }, '/name'],
    ['gcp', { accessKeyId: null }, '/accessKeyId'],
    ['gcp', { secretAccessKey: null }, '/secretAccessKey'],
    ['gcp', { provider: 'custom', endpoint: null }, '/endpoint'],
    // Values that differ from what was read are no read-only values.
    ['aws', { bucket: 'other' }, '/bucket'],
    ['aws', { key: '' }, '/key'],
    ['custom', { bucketUrl: 'https://acme.s3.eu-west-1.amazonaws.com' }, '/bucketUrl'],
    ['gcp', { endpoint: 'https://s3.example.com' }, '/endpoint'],
    ['gcp', { colour: 'red' }, '/colour'],
  ];
  for (const [id, body, field] of table) {
    const { status, json } = await patch(id, body);
    const what = `${id} ${JSON.stringify(body)}`;
    t.equal(status, field === null ? 200 : 400, what);
    if (field !== null) t.equal(json.errors[0].path, field, what);
  }
});
