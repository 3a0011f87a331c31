import t from 'tap';
import { openSecret } from '../../src/encryption/secrets.ts';
import { maxConfigs } from '../../src/export-configs/repository.ts';
import {
  configBody,
  credentialsOf,
  makeConfig,
  startExportApp,
} from '../helpers/export-configs.ts';
import { contentsOf, needsS3, s3Destination, s3Server } from '../helpers/s3.ts';

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
  await app.putEnvironment('other');
  const ids: string[] = [];
  for (let index = 0; index < 3; index += 1) {
    app.setNow(`2026-03-03T10:00:0${index}.000Z`);
    ids.unshift((await makeConfig(app, environmentId)).id);
  }
  const { status } = await app.call(`/v1/environments/other/export-configs/${ids[0]}`);
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
