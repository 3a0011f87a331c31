import { HeadObjectCommand } from '@aws-sdk/client-s3';
import t from 'tap';
import { openSecret } from '../../src/encryption/secrets.ts';
import { maxConfigs } from '../../src/export-configs/repository.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import {
  configBody,
  credentialsOf,
  makeConfig,
  runReader,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import { emptyTables } from '../helpers/postgres.ts';
import {
  contentsOf,
  freshPrefix,
  needsS3,
  s3Client,
  s3Destination,
  s3Server,
} from '../helpers/s3.ts';
import { kmsOptions, startGateway } from '../helpers/s3-gateway.ts';
import { startS3Proxy } from '../helpers/s3-proxy.ts';

/** Export configs over HTTP, checked against the real S3 server. */

const now = '2026-03-03T10:00:00.000Z';
const app = await startExportApp(t, { now });
const { pool } = app.database;
let environments = 0;

t.beforeEach(() => app.setNow(now));

/** Creates an environment for one test. */
async function createEnvironment() {
  environments += 1;
  const environmentId = `acme-${environments}`;
  await app.putEnvironment(environmentId);
  return {
    environmentId,
    path: `/v1/environments/${environmentId}/export-configs`,
    rowsOf: async (columns: string) =>
      (
        await pool.query(`select ${columns} from export_configs where environment_id = $1`, [
          environmentId,
        ])
      ).rows,
  };
}

t.test('creates, reads, lists and deletes a config', needsS3, async t => {
  const { environmentId, path, rowsOf } = await createEnvironment();
  const body = configBody('full', { name: '  Nightly to S3 ', key: ' /a/b/ ' });
  const made = await app.call(path, { method: 'POST', json: body });
  t.equal(made.status, 201, made.text);
  const { id, ...rest } = made.json;
  t.strictSame(rest, {
    name: 'Nightly to S3',
    enabled: true,
    schedule: 'daily',
    provider: 'custom',
    bucketUrl: null,
    bucket: s3Server().bucket,
    region: s3Server().region,
    key: 'a/b',
    endpoint: s3Server().endpoint,
    accessKeyId: s3Server().users.full.accessKeyId,
    format: 'csv',
    roleArn: null,
    externalId: null,
    compression: 'none',
    encryption: null,
    manifest: false,
    catchUp: 'newest',
    redeliver: false,
    createdAt: now,
    updatedAt: now,
    status: {
      status: 'never ran before',
      running: false,
      lastRunAt: null,
      lastSuccessfulRunAt: null,
      nextRunAt: '2026-03-04T00:00:00.000Z',
      error: null,
      lastDeliveredDate: null,
      currentRun: null,
      turnedOff: null,
    },
  });
  t.strictSame((await app.call(`${path}/${id}`)).json, made.json);
  t.strictSame((await app.call(`${path}/${id}/status`)).json, made.json.status);
  t.strictSame((await app.call(path)).json, { items: [made.json], nextCursor: null });
  t.strictSame(await contentsOf(s3Destination({ key: 'a/b' })), { objects: [], unfinished: [] });

  const [row] = await rowsOf('*');
  const secret = s3Server().users.full.secretAccessKey;
  t.notOk(
    JSON.stringify(row).includes(secret),
    'the row does not contain the secret in plain text',
  );
  const owner = { environmentId, configId: id };
  t.ok(
    openSecret(app.config.encryptionKeys, row.sealed_secret, owner) === secret,
    'the secret can be unsealed for its environment',
  );
  t.throws(() =>
    openSecret(app.config.encryptionKeys, row.sealed_secret, { ...owner, configId: 'other' }),
  );

  t.equal((await app.call(`${path}/${id}`, { method: 'DELETE' })).status, 204);
  t.equal((await app.call(`${path}/${id}`)).status, 404);
  t.equal((await app.call(`${path}/${id}`, { method: 'DELETE' })).status, 404);
  t.strictSame((await app.call(path)).json.items, []);
  t.strictSame(await rowsOf('id'), []);
});

t.test('rejects invalid bodies field by field and stores nothing', needsS3, async t => {
  const { path, rowsOf } = await createEnvironment();
  const aws = { bucketUrl: 'https://acme.s3.eu-west-1.amazonaws.com/exports', provider: 'aws' };
  const { endpoint: _e, bucket: _b, region: _r, key: _k, ...common } = configBody();
  const table: [string, object, string[]][] = [
    ['an unknown property', { ...configBody(), colour: 'red' }, ['/colour']],
    ['no secret', { ...configBody(), secretAccessKey: undefined }, ['/secretAccessKey']],
    ['an empty name', configBody('full', { name: '  ' }), ['/name']],
    ['an unknown schedule', configBody('full', { schedule: 'hourly' }), ['/schedule']],
    [
      'bucketUrl of another provider',
      configBody('full', { bucketUrl: aws.bucketUrl }),
      ['/bucketUrl'],
    ],
    [
      'endpoint of another provider',
      { ...common, ...aws, endpoint: 'https://s3.example.com' },
      ['/endpoint'],
    ],
    ['bucket beside bucketUrl', { ...common, ...aws, bucket: 'acme' }, ['/bucket']],
    [
      'an endpoint with a query',
      configBody('full', { endpoint: 'https://s3.example.com/?x' }),
      ['/endpoint'],
    ],
    [
      'no bucket and a blank secret',
      configBody('full', { bucket: undefined, secretAccessKey: ' ' }),
      ['/bucket', '/secretAccessKey'],
    ],
    [
      'path style',
      { ...common, ...aws, bucketUrl: 'https://s3.eu-west-1.amazonaws.com/acme' },
      ['/bucketUrl'],
    ],
  ];
  for (const [what, body, paths] of table) {
    for (const end of ['', '/validate']) {
      const answer = await app.call(`${path}${end}`, { method: 'POST', json: body });
      t.equal(answer.status, 400, `${what}${end}`);
      t.equal(answer.json.code, 'validation_failed');
      t.strictSame(
        answer.json.errors.map((fault: { path: string }) => fault.path),
        paths,
        what,
      );
    }
  }
  t.strictSame(await rowsOf('id'), []);
});

t.test('answers 422 on save and 200 on validate when the bucket check fails', needsS3, async t => {
  const { path, rowsOf } = await createEnvironment();
  const wrongSecret = { secretAccessKey: s3Server().users.nothing.secretAccessKey };
  const table: [object, string, (string | null)[]][] = [
    [
      configBody('full', wrongSecret),
      'secret_key_mismatch',
      ['secret_key_mismatch', 'secret_key_mismatch'],
    ],
    [
      configBody('full', { bucket: 'no-such-bucket' }),
      'bucket_not_found',
      ['bucket_not_found', 'bucket_not_found'],
    ],
    [configBody('putOnly'), 'list_denied', ['list_denied', null]],
    [configBody('readOnly'), 'write_denied', [null, 'write_denied']],
    [
      configBody('full', { endpoint: 'https://10.0.0.1' }),
      'endpoint_not_allowed',
      ['endpoint_not_allowed', 'endpoint_not_allowed'],
    ],
  ];
  for (const [body, code, codes] of table) {
    const saved = await app.call(path, { method: 'POST', json: body });
    t.equal(saved.status, 422, code);
    t.equal(saved.json.code, 'storage_validation_failed');
    t.equal(saved.json.storageError.code, code);
    t.ok(saved.json.storageError.message && saved.json.storageError.hint);
    const tried = await app.call(`${path}/validate`, { method: 'POST', json: body });
    t.equal(tried.status, 200);
    t.equal(tried.json.valid, false);
    t.strictSame(
      tried.json.checks.map((check: { name: string }) => check.name),
      ['list', 'write'],
    );
    t.strictSame(
      tried.json.checks.map(
        (check: { error: { code: string } | null }) => check.error?.code ?? null,
      ),
      codes,
    );
    t.strictSame(saved.json.checks, tried.json.checks);
  }
  t.strictSame(await rowsOf('id'), []);
  const good = await app.call(`${path}/validate`, { method: 'POST', json: configBody() });
  const passed = (name: string) => ({ name, ok: true, error: null });
  t.strictSame(good.json, { valid: true, checks: [passed('list'), passed('write')] });
});

t.test('changes an export config with PATCH', needsS3, async t => {
  const { environmentId, path, rowsOf } = await createEnvironment();
  const { id, ...made } = await makeConfig(app, environmentId);
  const patch = (json: object) => app.call(`${path}/${id}`, { method: 'PATCH', json });
  const { users } = s3Server();
  const storedSecret = async () => {
    const [row] = await rowsOf('sealed_secret');
    return openSecret(app.config.encryptionKeys, row.sealed_secret, {
      environmentId,
      configId: id,
    });
  };

  await t.test('keeps absent fields', async t => {
    app.setNow('2026-03-03T11:00:00.000Z');
    const answer = await patch({ name: 'Renamed', compression: 'gzip', manifest: true });
    t.equal(answer.status, 200, answer.text);
    t.strictSame(answer.json, {
      ...made,
      id,
      name: 'Renamed',
      compression: 'gzip',
      manifest: true,
      updatedAt: '2026-03-03T11:00:00.000Z',
    });
    t.ok((await storedSecret()) === users.full.secretAccessKey);
  });

  await t.test('checks the bucket when the destination or the credentials change', async t => {
    const moved = await patch({ key: 'elsewhere', region: 'eu-west-9' });
    t.equal(moved.status, 200, 'the same bucket needs no secret');
    const wrong = await patch({ accessKeyId: users.readOnly.accessKeyId });
    t.equal(wrong.status, 422);
    t.equal(wrong.json.storageError.code, 'secret_key_mismatch');
    const denied = await patch(credentialsOf('readOnly'));
    t.equal(denied.json.storageError.code, 'write_denied');
    t.equal(
      (await app.call(`${path}/${id}`)).json.accessKeyId,
      users.full.accessKeyId,
      'a rejected change is not stored',
    );
    t.equal((await app.call(`${path}/${id}/validate`, { method: 'POST' })).json.valid, true);
  });

  await t.test('requires the secret again for another bucket, endpoint or provider', async t => {
    const other = s3Server().endpoint.replace('127.0.0.1', 'localhost');
    for (const change of [
      { bucket: 'another' },
      { endpoint: other },
      { provider: 'aws', bucketUrl: 'https://acme.s3.eu-west-1.amazonaws.com' },
      { provider: 'gcp', bucket: 'acme-exports', region: 'europe-west1' },
    ]) {
      const answer = await patch(change);
      t.equal(answer.status, 400, JSON.stringify(change));
      t.strictSame(
        answer.json.errors.map((fault: { path: string }) => fault.path),
        ['/secretAccessKey'],
      );
    }
    t.equal(
      (await patch({ provider: 'gcp', ...credentialsOf('full') })).json.errors[0].path,
      '/bucket',
      'destination fields of the former provider are not reused',
    );
    t.equal(
      (await patch({ bucketUrl: 'https://acme.s3.eu-west-1.amazonaws.com' })).json.errors[0].path,
      '/bucketUrl',
    );
    t.equal((await patch({ colour: 'red' })).json.errors[0].path, '/colour');
    t.equal(
      (await patch({ bucket: 'another', ...credentialsOf('full') })).json.storageError.code,
      'bucket_not_found',
    );
  });

  await t.test('starts a new schedule when it is enabled again', async t => {
    app.setNow('2026-03-03T11:00:00.000Z');
    const off = await patch({ enabled: false });
    t.equal(off.json.status.nextRunAt, null);
    t.equal((await patch({ enabled: true })).status, 200);
    const [row] = await rowsOf('active_since');
    t.equal(row.active_since.toISOString(), '2026-03-03T11:00:00.000Z');
    // Enabling checks the bucket: it fails if the access key was revoked.
    await patch({ enabled: false });
    await pool.query(`update export_configs set access_key_id = 'gone' where id = $1`, [id]);
    const refused = await patch({ enabled: true });
    t.equal(refused.status, 422);
    t.equal(refused.json.storageError.code, 'access_key_not_recognised');
  });
});

t.test('allows only reads and deletion on a plan below enterprise', needsS3, async t => {
  const { environmentId, path } = await createEnvironment();
  const { id } = await makeConfig(app, environmentId);
  await app.putEnvironment(environmentId, 'pro');
  const refused: [string, string, object?][] = [
    ['POST', path, configBody()],
    ['POST', `${path}/validate`, configBody()],
    ['PATCH', `${path}/${id}`, { name: 'x' }],
    ['POST', `${path}/${id}/validate`],
    ['POST', `${path}/${id}/runs`],
  ];
  for (const [method, url, json] of refused) {
    const answer = await app.call(url, { method, ...(json && { json }) });
    t.equal(answer.status, 403, `${method} ${url}`);
    t.match(answer.json, {
      code: 'plan_upgrade_required',
      currentPlan: 'pro',
      requiredPlan: 'enterprise',
    });
  }
  t.equal((await app.call(`${path}/${id}`)).json.status.nextRunAt, null);
  t.strictSame((await app.call(`${path}/${id}/runs`)).json, { items: [], nextCursor: null });
  t.equal((await app.call(`${path}/${id}`, { method: 'DELETE' })).status, 204);
});

t.test('hides configs from other environments and lists them page by page', needsS3, async t => {
  const { environmentId, path, rowsOf } = await createEnvironment();
  const other = await createEnvironment();
  const ids: string[] = [];
  for (let index = 0; index < 3; index += 1) {
    app.setNow(`2026-03-03T10:00:0${index}.000Z`);
    ids.unshift((await makeConfig(app, environmentId)).id);
  }
  const { status } = await app.call(`${other.path}/${ids[0]}`);
  t.equal(status, 404);
  const first = (await app.call(`${path}?limit=2`)).json;
  t.strictSame(
    first.items.map((item: { id: string }) => item.id),
    ids.slice(0, 2),
  );
  const second = (await app.call(`${path}?limit=2&cursor=${first.nextCursor}`)).json;
  t.strictSame(
    second.items.map((item: { id: string }) => item.id),
    ids.slice(2),
  );
  t.equal(second.nextCursor, null);
  await app.call(`/v1/environments/${environmentId}`, { method: 'DELETE' });
  t.strictSame(await rowsOf('id'), []);
});

t.test('allows at most 50 configs in an environment, also at once', needsS3, async t => {
  const { environmentId, path } = await createEnvironment();
  const { id } = await makeConfig(app, environmentId);
  // Copies a real config until two places are left.
  await pool.query(
    `insert into export_configs
     select (jsonb_populate_record(config, jsonb_build_object('id', gen_random_uuid()))).*
     from export_configs config, generate_series(1, $1) where environment_id = $2`,
    [maxConfigs - 3, environmentId],
  );
  const create = () => app.call(path, { method: 'POST', json: configBody() });
  // Not more at once: saves with a destination check have a concurrency limit as well.
  const answers = await Promise.all([create(), create()]);
  const more = await Promise.all([create(), create()]);
  t.same(
    answers.map(({ status }) => status),
    [201, 201],
  );
  for (const answer of more) {
    t.equal(answer.status, 409);
    t.match(answer.json, {
      code: 'conflict',
      detail: /at most 50 export configs.*Delete one first/,
    });
  }

  t.equal((await app.call(`${path}/${id}`, { method: 'DELETE' })).status, 204);
  const last = await Promise.all([create(), create()]);
  t.same(last.map(({ status }) => status).sort(), [201, 409]);
});

t.test('refuses configs that write the same object', async t => {
  t.test('rejects a config that writes the same object as another one', needsS3, async t => {
    const { environmentId, path } = await createEnvironment();
    const other = await createEnvironment();
    const key = freshPrefix();
    const first = await makeConfig(app, environmentId, configBody('full', { key, name: 'First' }));
    const post = (overrides: object) =>
      app.call(path, { method: 'POST', json: configBody('full', { key, ...overrides }) });

    for (const [what, overrides] of [
      ['the same body', {}],
      ['slashes around the folder', { key: `/${key}/` }],
      ['another schedule', { schedule: 'weekly' }],
      ['a config that is off', { enabled: false }],
      ['another region label', { region: 'auto' }],
      ['another user', { accessKeyId: 'AKIAOTHER' }],
      ['a tenant of Ceph', { bucket: `tenant:${s3Server().bucket}` }],
    ] as const) {
      const answer = await post(overrides);
      t.equal(answer.status, 409, what);
      t.equal(answer.json.code, 'conflict');
      t.match(answer.json.detail, `"First" (${first.id})`, what);
    }
    t.equal(
      (await post({ compression: 'gzip' })).status,
      201,
      'a different compression is a different object',
    );
    t.equal((await post({ key: `${key}/{date}` })).status, 201, 'another folder');
    const template = await post({ key: `${key}/{year}-{month}-{day}` });
    t.equal(template.status, 409, 'placeholders that give the same folder');
    const literal = await post({ key: `${key}/2026-03-02` });
    t.equal(literal.status, 409, 'a literal folder that equals the template on one day');
    const elsewhere = await app.call(other.path, {
      method: 'POST',
      json: configBody('full', { key }),
    });
    t.equal(elsewhere.status, 201, 'object names contain the environment id');

    await app.call(`${path}/${first.id}`, { method: 'DELETE' });
    t.equal((await post({})).status, 201, 'the conflicting config was deleted');
  });

  t.test('rejects a PATCH that leads to the object of another config', needsS3, async t => {
    const { environmentId, path } = await createEnvironment();
    const first = await makeConfig(app, environmentId);
    const second = await makeConfig(
      app,
      environmentId,
      configBody('full', { compression: 'gzip' }),
    );
    const patch = (json: object) => app.call(`${path}/${second.id}`, { method: 'PATCH', json });
    t.equal(
      (await patch({ key: first.key })).status,
      200,
      'the compression differs, so the same folder is allowed',
    );
    const refused = await patch({ compression: 'none' });
    t.equal(refused.status, 409);
    t.match(refused.json.detail, first.id);
    t.equal((await app.call(`${path}/${second.id}`)).json.compression, 'gzip');
    t.equal((await patch({ compression: 'none', key: freshPrefix() })).status, 200);
    t.equal((await patch({ name: 'Renamed', enabled: false })).status, 200);

    // Configs that were saved by versions before this rule may share an object.
    await pool.query('update export_configs set key = $1 where environment_id = $2', [
      first.key,
      environmentId,
    ]);
    t.equal((await patch({ name: 'Still there' })).status, 200, 'other fields can be changed');
    t.equal((await patch({ enabled: true })).status, 200);
    t.equal(
      (await patch({ key: freshPrefix() })).status,
      200,
      'moving to another folder resolves the conflict',
    );
  });

  t.test(
    'stores only one of several conflicting configs that are saved concurrently',
    needsS3,
    async t => {
      const { environmentId, path } = await createEnvironment();
      const { bucket } = s3Server();
      const key = freshPrefix();
      const folders = ['{date}', '{year}-{month}-{day}', '2026-03-02', '{date}', '{year}-03-02'];
      const answers = await Promise.all(
        folders.map(folder =>
          app.call(path, { method: 'POST', json: configBody('full', { key: `${key}/${folder}` }) }),
        ),
      );
      t.equal(answers.filter(({ status }) => status === 201).length, 1);
      // The service checks two buckets of an environment at the same time.
      t.ok(answers.every(({ status }) => [201, 409, 429].includes(status)));

      const ids: string[] = [];
      for (let index = 0; index < 4; index += 1)
        ids.push((await makeConfig(app, environmentId)).id);
      const target = freshPrefix();
      const patched = await Promise.all(
        ids.map(id => app.call(`${path}/${id}`, { method: 'PATCH', json: { key: target } })),
      );
      t.equal(patched.filter(({ status }) => status === 200).length, 1);
      t.ok(patched.every(({ status }) => [200, 409, 429].includes(status)));
      const { rows } = await pool.query(
        'select count(*)::int as n from export_configs where bucket = $1 and key = $2',
        [bucket, target],
      );
      t.equal(rows[0].n, 1);
    },
  );
});

/**
 * Changes that send a config back as it was read. No server listens at the destinations, so a check
 * of the bucket fails.
 */
t.test('accepts a config as it was read', async t => {
  const { environmentId, path, rowsOf } = await createEnvironment();
  const insert = (id: string, columns: object) => {
    const at = '2026-03-01T10:00:00Z';
    const row = {
      environment_id: environmentId,
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
    external_id: 'external',
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
   from export_configs where environment_id = $1`,
    [environmentId],
  );
  const read = async (id: string) => (await app.call(`${path}/${id}`)).json;
  const patch = (id: string, json: object) => app.call(`${path}/${id}`, { method: 'PATCH', json });
  const stored = async () => (await rowsOf('*')).sort((a, b) => (a.id < b.id ? -1 : 1));
  const before = await stored();

  t.test('accepts every config as it was read, and changes and checks nothing', async t => {
    for (const { id } of before) {
      const config = await read(id);
      const answer = await patch(id, config);
      t.equal(answer.status, 200, answer.text);
      t.strictSame(answer.json, config);
      t.strictSame(await read(id), config);
    }
    t.strictSame(await stored(), before);
    const { rowCount } = await pool.query(
      `select from audit_log where environment_id = $1 and action like 'export_config%'`,
      [environmentId],
    );
    t.equal(rowCount, 0);
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
      updatedAt: now,
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
});

t.test('shows the export configs of all environments', async t => {
  await emptyTables(pool);
  const path = '/v1/export-configs/status';
  await app.putEnvironment('acme');
  await app.putEnvironment('on-pro', 'pro');
  await app.putEnvironment('zeta');
  const rows = [
    ['acme', 'b-failed', true],
    ['acme', 'a-never', true],
    ['acme', 'c-off', false],
    ['on-pro', 'a-successful', true],
    ['zeta', 'a-running', true],
    ['zeta', 'b-deleted', false],
  ] as const;
  for (const [environment, id, enabled] of rows) {
    await pool.query(
      `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, access_key_id,
         sealed_secret, compression, manifest, active_since, deleted_at, created_at, updated_at)
       select $1::text, $2::text, 'Name of ' || $2, $3::boolean, 'daily', 'gcp', 'acme', 'eu', $2, 'id', 'sealed', 'none', false, at,
         case when $2 = 'b-deleted' then at end, at, at
       from (values ('2026-03-01T10:00:00Z'::timestamptz)) as made (at)`,
      [environment, id, enabled],
    );
  }
  const runs = [
    ['acme', 'b-failed', 'successful', '2026-03-01T00:00:09Z'],
    ['acme', 'b-failed', 'failed', '2026-03-02T00:00:09Z'],
    ['acme', 'c-off', 'failed', '2026-03-02T00:00:09Z'],
    ['on-pro', 'a-successful', 'failed', '2026-03-01T00:00:09Z'],
    ['on-pro', 'a-successful', 'successful', '2026-03-02T00:00:09Z'],
    ['zeta', 'a-running', 'running', null],
    ['zeta', 'b-deleted', 'failed', '2026-03-02T00:00:09Z'],
  ];
  for (const [index, [environment, config, state, finishedAt]] of runs.entries()) {
    await pool.query(
      `insert into export_runs (environment_id, config_id, id, trigger, snapshot_date, state, created_at, finished_at, error_code, error_message)
       values ($1, $2, $3, 'manual', '2026-02-28', $4::text, now(), $5, case when $4 = 'failed' then 'timeout' end,
         case when $4 = 'failed' then 'It took too long.' end)`,
      [environment, config, `run-${index}`, state, finishedAt],
    );
  }
  const list = async (query = '') => {
    const answer = await app.call(`${path}${query}`);
    t.equal(answer.status, 200, answer.text);
    return answer.json;
  };
  const idsOf = async (query = '') =>
    (await list(query)).items.map((item: { configId: string }) => item.configId);
  const all = ['a-never', 'b-failed', 'c-off', 'a-successful', 'a-running'];

  await t.test('lists the configs of all environments with their status', async t => {
    const { items, nextCursor } = await list();
    t.equal(nextCursor, null);
    t.strictSame(
      items.map((item: { configId: string }) => item.configId),
      all,
    );
    for (const { environmentId, configId, name, enabled, ...status } of items) {
      const at = `/v1/environments/${environmentId}/export-configs/${configId}`;
      t.match((await app.call(at)).json, { name, enabled });
      t.strictSame(status, (await app.call(`${at}/status`)).json, configId);
    }
    t.match(items[1], {
      environmentId: 'acme',
      configId: 'b-failed',
      name: 'Name of b-failed',
      enabled: true,
      status: 'failed',
      lastSuccessfulRunAt: '2026-03-01T00:00:09.000Z',
      nextRunAt: '2026-03-04T00:00:00.000Z',
      error: { code: 'timeout' },
    });
    t.match(items[3], { environmentId: 'on-pro', nextRunAt: null });
    t.match(items[4], { status: 'never ran before', running: true });
  });

  await t.test('filters by status and by enabled', async t => {
    t.strictSame(await idsOf('?status=failed'), ['b-failed', 'c-off']);
    t.strictSame(await idsOf('?status=successful'), ['a-successful']);
    t.strictSame(await idsOf('?status=never%20ran%20before'), ['a-never', 'a-running']);
    t.strictSame(await idsOf('?enabled=false'), ['c-off']);
    t.strictSame(await idsOf('?status=failed&enabled=true'), ['b-failed']);
  });

  await t.test('pages through the list, with and without a filter', async t => {
    for (const [filter, expected] of [
      ['', all],
      ['&status=failed', ['b-failed', 'c-off']],
    ] as const) {
      const found: string[] = [];
      let cursor: string | null = null;
      do {
        const at: string = cursor === null ? '' : `&cursor=${cursor}`;
        const page = await list(`?limit=1${filter}${at}`);
        t.equal(page.items.length, 1);
        found.push(page.items[0].configId);
        cursor = page.nextCursor;
      } while (cursor !== null);
      t.strictSame(found, expected);
    }
  });

  await t.test('refuses invalid filters', async t => {
    for (const [query, field] of [
      ['?status=running', '/query/status'],
      ['?enabled=1', '/query/enabled'],
      ['?limit=0', '/query/limit'],
      ['?cursor=x', '/query/cursor'],
    ] as const) {
      const { status, json } = await app.call(`${path}${query}`);
      t.equal(status, 400, query);
      t.equal(json.errors[0].path, field);
    }
  });
});

t.test('encrypts exported objects as the export config says', needsS3, async t => {
  const gateway = await startGateway(kmsOptions);
  t.teardown(gateway.stop);
  await emptyTables(pool);
  const { environmentId, path } = await createEnvironment();

  await t.test(
    'sends the configured encryption with the check, the object and the manifest',
    async t => {
      const proxy = await startS3Proxy(gateway.endpoint);
      t.teardown(proxy.close);
      const sent: (string | undefined)[][] = [];
      proxy.decide(({ method, url, headers }) => {
        const starts = method === 'PUT' || (method === 'POST' && url?.includes('?uploads'));
        if (starts) {
          sent.push(
            ['', '-aws-kms-key-id'].map(end =>
              headers[`x-amz-server-side-encryption${end}`]?.toString(),
            ),
          );
        }
        return 'pass';
      });
      await app.ingest(environmentId, '2026-03-03', ingestBody([adoptionRow({})]));
      const { id, key, encryption } = await makeConfig(
        app,
        environmentId,
        configBody('full', {
          endpoint: proxy.endpoint,
          manifest: true,
          encryption: { type: 'aws:kms', kmsKeyId: ' testkey-1 ' },
        }),
      );
      t.strictSame(encryption, { type: 'aws:kms', kmsKeyId: 'testkey-1' });
      const worker = startExportWorker(t, app);
      const { json } = await app.call(`${path}/${id}/runs`, { method: 'POST' });
      worker.wake();
      const run = await runReader(app, environmentId).finished(json.id);
      t.match(run, { state: 'successful' });
      t.strictSame(sent, Array(3).fill(['aws:kms', 'testkey-1']));
      const destination = s3Destination({ key, endpoint: gateway.endpoint });
      const client = s3Client('full', destination);
      t.teardown(() => client.destroy());
      const { objects } = await contentsOf(destination);
      t.equal(objects.length, 2);
      for (const Key of objects) {
        const head = await client.send(new HeadObjectCommand({ Bucket: s3Server().bucket, Key }));
        t.match(head, { ServerSideEncryption: 'aws:kms', SSEKMSKeyId: 'testkey-1' });
      }

      // A key that is deleted after the check.
      await pool.query("update export_configs set kms_key_id = 'deleted-key'");
      const { json: later } = await app.call(`${path}/${id}/runs`, { method: 'POST' });
      worker.wake();
      t.match(await runReader(app, environmentId).finished(later.id), {
        state: 'failed',
        attempts: 1,
        error: { code: 'encryption_denied' },
      });
      await pool.query("update export_configs set kms_key_id = 'testkey-1'");

      const patch = (body: object) => app.call(`${path}/${id}`, { method: 'PATCH', json: body });
      const refused = await patch({ encryption: { type: 'aws:kms', kmsKeyId: 'unknown-key' } });
      t.equal(refused.status, 422);
      t.equal(refused.json.storageError.code, 'encryption_denied', refused.text);
      t.match(refused.json.storageError.hint, /kms:GenerateDataKey/);
      t.strictSame((await contentsOf(destination)).unfinished, []);
      t.strictSame((await app.call(`${path}/${id}`)).json.encryption, encryption);
      t.equal(
        (await patch({ name: 'Renamed' })).json.encryption.type,
        'aws:kms',
        'an absent field is kept',
      );
      t.strictSame((await patch({ encryption: { type: 'AES256' } })).json.encryption, {
        type: 'AES256',
        kmsKeyId: null,
      });
      t.equal((await patch({ encryption: null })).json.encryption, null);
      const { rows } = await pool.query(
        "select details from audit_log where action = 'export_config.updated' order by id",
      );
      t.strictSame(
        rows.map(({ details }) => [details.changed, details.destination?.encryption]),
        [
          [['name'], undefined],
          [['encryption'], { type: 'AES256', kmsKeyId: null }],
          [['encryption'], null],
        ],
      );
    },
  );

  await t.test(
    'reports a refused encryption as encryption_denied and missing rights as write_denied',
    async t => {
      const proxy = await startS3Proxy(gateway.endpoint);
      proxy.decide(({ headers }) =>
        headers['x-amz-server-side-encryption'] === undefined ? 'pass' : 'invalid-request',
      );
      t.teardown(proxy.close);
      const validate = async (user: 'full' | 'readOnly', overrides: object) => {
        const body = configBody(user, { endpoint: proxy.endpoint, ...overrides });
        const { json } = await app.call(`${path}/validate`, { method: 'POST', json: body });
        return json.checks.map(
          (check: { error: { code: string } | null }) => check.error?.code ?? 'ok',
        );
      };
      const encryption = { type: 'AES256' };
      t.strictSame(await validate('full', { encryption }), ['ok', 'encryption_denied']);
      t.strictSame(await validate('full', { encryption: null }), ['ok', 'ok']);
      proxy.decide(() => 'pass');
      t.strictSame(await validate('full', { encryption }), ['ok', 'ok']);
      t.strictSame(await validate('readOnly', { encryption }), ['ok', 'write_denied']);
    },
  );

  await t.test('rejects a malformed encryption', async t => {
    const gcp = {
      name: 'Nightly',
      schedule: 'daily',
      provider: 'gcp',
      bucket: 'acme-exports',
      region: 'EU',
      accessKeyId: 'GOOG1',
      secretAccessKey: 'not-a-real-secret',
    };
    const table: [object, string][] = [
      [configBody('full', { encryption: { type: 'none' } }), '/encryption/type'],
      [configBody('full', { encryption: {} }), '/encryption/type'],
      [configBody('full', { encryption: 'AES256' }), '/encryption'],
      [configBody('full', { encryption: { type: 'AES256', key: 'k' } }), '/encryption/key'],
      [
        configBody('full', { encryption: { type: 'AES256', kmsKeyId: 'k' } }),
        '/encryption/kmsKeyId',
      ],
      [
        configBody('full', { encryption: { type: 'aws:kms', kmsKeyId: '' } }),
        '/encryption/kmsKeyId',
      ],
      [
        configBody('full', { encryption: { type: 'aws:kms', kmsKeyId: 'a\r\nb' } }),
        '/encryption/kmsKeyId',
      ],
      [{ ...gcp, encryption: { type: 'AES256' } }, '/encryption'],
    ];
    for (const [body, expected] of table) {
      const answer = await app.call(path, { method: 'POST', json: body });
      t.equal(answer.status, 400, answer.text);
      t.strictSame(
        answer.json.errors.map((fault: { path: string }) => fault.path),
        [expected],
      );
    }
  });
});
