import fs from 'node:fs';
import t from 'tap';
import { createS3Client, runTimeouts } from '../../src/destinations/s3/client.ts';
import { uploadObject } from '../../src/destinations/s3/upload.ts';
import { fakeEndpoint } from '../destinations/s3/fake-endpoint.ts';
import { digestOf, mebibyte, uploadRequest } from '../destinations/s3/test-source.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startApp, startTestApp } from '../helpers/app.ts';
import { type Aws, needsPort443, startAws, trustOf } from '../helpers/aws.ts';
import { runReader, startExportWorker } from '../helpers/export-configs.ts';
import { needsS3 } from '../helpers/s3.ts';

/** Roles at AWS instead of access keys. */

const configs = '/v1/environments/acme/export-configs';
const roleArn = 'arn:aws:iam::123456789012:role/exports';

function bodyOf({ destination }: Pick<Aws, 'destination'>, access: object) {
  const { bucket, key } = destination;
  return {
    name: 'Nightly',
    schedule: 'daily',
    provider: 'aws',
    bucketUrl: `https://${bucket}.s3.us-east-1.amazonaws.com/${key}`,
    ...access,
  };
}

/** Sets variables of the process that the chain of the SDK reads. */
function setIdentity(
  t: { teardown(handler: () => void): void },
  identity: Partial<Aws['operator']>,
): void {
  const variables = {
    AWS_ACCESS_KEY_ID: identity.accessKeyId,
    AWS_SECRET_ACCESS_KEY: identity.secretAccessKey,
    AWS_EC2_METADATA_DISABLED: 'true',
    AWS_CONFIG_FILE: '/dev/null',
    AWS_SHARED_CREDENTIALS_FILE: '/dev/null',
  };
  const before = Object.keys(variables).map(name => [name, process.env[name]] as const);
  const set = (values: Iterable<readonly [string, string | undefined]>) => {
    for (const [name, value] of values) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  };
  set(Object.entries(variables));
  t.teardown(() => set(before));
}

const app = await startTestApp(t);
const { pool, url: databaseUrl } = app.database;

const needsAws = { ...needsS3, ...(await needsPort443()) };

const shared = needsAws.skip ? null : await startShared();

/** Starts a service that reaches AWS, and creates a role that may do what the guide says. */
async function startShared() {
  const aws = await startAws(t);
  const { clientEnvironment } = aws;
  const app = await startApp(t, {
    databaseUrl,
    env: { AWS_ASSUME_ROLE: 'true', S3_ENDPOINT_ALLOWLIST: '127.0.0.1' },
    adjust: made => ({ ...made, clientEnvironment }),
  });
  const worker = startExportWorker(t, app);
  const guide = fs.readFileSync(new URL('../../docs/guides/aws-role.md', import.meta.url), 'utf8');
  const [, policy = ''] = /<!-- test: role-policy -->\s+```json\n(.*?)```/s.exec(guide) ?? [];
  const { bucket, key } = aws.destination;
  const { Statement: rights } = JSON.parse(
    policy.replaceAll('acme-exports', bucket).replaceAll('company-adoption', key),
  );
  return { aws, app, worker, rights, exporter: await aws.createRole(rights) };
}

let environments = 0;

/** Makes an environment that may assume the role. */
async function start(t: { teardown(handler: () => void): void }) {
  if (shared === null) throw new Error('a test without `needsAws` asked for AWS');
  const { aws, app, exporter } = shared;
  setIdentity(t, aws.operator);
  environments += 1;
  const environmentId = `acme-${environments}`;
  const configs = `/v1/environments/${environmentId}/export-configs`;
  await app.putEnvironment(environmentId);
  const { externalId } = (await app.call(`/v1/environments/${environmentId}`)).json;
  aws.externalIds.set(exporter, externalId);
  const create = (access: object) =>
    app.call(configs, { method: 'POST', json: bodyOf(aws, access) });
  return { ...shared, environmentId, configs, externalId, create };
}

t.test('shows an external id that differs for each environment and stays', async t => {
  await app.putEnvironment('acme');
  await app.putEnvironment('other');
  const key = await app.makeKey('acme', ['exports:read']);
  const read = async (id: string, token?: string) =>
    (await app.call(`/v1/environments/${id}`, token === undefined ? {} : { token })).json
      .externalId;
  const externalId = await read('acme');
  t.match(externalId, /^[0-9a-f-]{36}$/);
  t.equal(await read('acme', key.token), externalId);
  t.not(await read('other'), externalId);
  const { items } = (await app.call('/v1/environments')).json;
  t.equal(items[0].externalId, externalId);
  await app.call('/v1/environments/acme', { method: 'DELETE' });
  await app.putEnvironment('acme');
  t.not(await read('acme'), externalId, 'a later environment with the same name');
});

t.test('refuses a role that is malformed, turned off or without an identity', async t => {
  setIdentity(t, {});
  const off = app;
  const env = { AWS_ASSUME_ROLE: 'true' };
  const on = await startApp(t, { databaseUrl, env });
  const place = { destination: { bucket: 'acme', key: 'k' } } as Aws;
  const key = { accessKeyId: 'AKIATEST', secretAccessKey: 'not-a-real-secret' };
  await app.putEnvironment('acme');
  const table: [typeof on, object, RegExp][] = [
    [off, bodyOf(place, { roleArn }), /\/roleArn is not supported/],
    [on, bodyOf(place, { roleArn }), /\/roleArn cannot be used: .* AWS identity/],
    [on, bodyOf(place, { roleArn: 'arn:aws:iam::1:role/x' }), /\/roleArn must be the ARN/],
    [on, bodyOf(place, { roleArn, ...key }), /\/roleArn excludes accessKeyId/],
    [on, bodyOf(place, {}), /accessKeyId is required without roleArn; .*secretAccessKey is/],
    [on, bodyOf(place, { accessKeyId: 'A' }), /^\/secretAccessKey is required without roleArn$/],
    [
      on,
      { ...bodyOf(place, { roleArn }), provider: 'gcp', bucketUrl: undefined, bucket: 'acme' },
      /\/roleArn does not belong to the provider "gcp"/,
    ],
  ];
  for (const [app, json, detail] of table) {
    for (const path of [configs, `${configs}/validate`]) {
      const answer = await app.call(path, { method: 'POST', json });
      t.equal(answer.status, 400, answer.text);
      t.match(answer.json.detail, detail);
    }
  }
});

t.test('explains why a role is refused, and exports with a role', needsAws, async t => {
  const { aws, app, worker, rights, exporter, ...environment } = await start(t);
  const { environmentId, configs, externalId, create } = environment;
  const [reader, stranger] = await Promise.all([
    aws.createRole(rights.slice(0, 1)),
    aws.createRole(rights, [trustOf('888888888888')]),
  ]);
  aws.externalIds.set(reader, externalId);
  const refused = async (arn: string) => {
    const { status, json } = await create({ roleArn: arn });
    t.equal(status, 422);
    return json.storageError;
  };

  t.match(await refused(stranger), { code: 'role_denied', hint: new RegExp(externalId) });
  t.match(await refused(`${exporter}-absent`), { code: 'role_denied' });
  t.match(await refused(reader), { code: 'write_denied' });
  aws.externalIds.delete(exporter);
  t.match(await refused(exporter), {
    code: 'external_id_not_enforced',
    hint: new RegExp(externalId),
  });
  aws.externalIds.set(exporter, 'id-of-another-environment');
  t.match(await refused(exporter), { code: 'role_denied' });

  aws.externalIds.set(exporter, externalId);
  const created = await create({ roleArn: ` ${exporter}\n` });
  t.equal(created.status, 201, created.text);
  t.match(created.json, { roleArn: exporter, externalId, accessKeyId: null });
  const [{ details }] = (await app.call('/v1/audit-log')).json.items;
  const { bucket } = aws.destination;
  t.match(details.destination, { bucket, encryption: null, roleArn: exporter });

  await app.ingest(environmentId, '2026-03-01', ingestBody([adoptionRow()]));
  const { json: run } = await app.call(`${configs}/${created.json.id}/runs`, { method: 'POST' });
  worker.wake();
  t.match(await runReader(app, environmentId).finished(run.id), {
    state: 'successful',
    error: null,
  });
});

t.test('changes a config between role and access key', needsAws, async t => {
  const { aws, app, environmentId, configs, externalId, exporter, create } = await start(t);
  const { id } = (await create({ roleArn: exporter })).json;
  const patch = (json: object) => app.call(`${configs}/${id}`, { method: 'PATCH', json });
  const { customer } = aws;
  for (const json of [
    { roleArn: null },
    { accessKeyId: customer.accessKeyId },
    { ...customer, roleArn: exporter },
  ]) {
    t.equal((await patch(json)).status, 400, Object.keys(json).join());
  }
  const shown = async (json: object) => {
    const answer = await patch(json);
    t.equal(answer.status, 200, answer.text);
    const { roleArn, externalId, accessKeyId } = answer.json;
    return { roleArn, externalId, accessKeyId };
  };
  const asRole = { roleArn: exporter, externalId, accessKeyId: null };
  const asKey = { roleArn: null, externalId: null, accessKeyId: customer.accessKeyId };
  t.strictSame(await shown({ name: 'Renamed', roleArn: exporter, accessKeyId: null }), asRole);
  t.strictSame(await shown({ ...customer, roleArn: null }), asKey);
  t.strictSame(await shown({ enabled: false }), asKey, 'keeps the access key');
  t.strictSame(await shown({ roleArn: exporter, enabled: true }), asRole);
  const secret = 'select sealed_secret from export_configs where environment_id = $1';
  const { rows } = await pool.query(secret, [environmentId]);
  t.strictSame(rows, [{ sealed_secret: null }], 'the secret is deleted');
  const { items } = (await app.call(`/v1/audit-log?environmentId=${environmentId}`)).json;
  t.match(
    items.slice(0, 4).map((line: { details: { changed: string[] } }) => line.details.changed),
    [
      ['enabled', 'roleArn', 'accessKeyId'],
      ['enabled'],
      ['roleArn', 'accessKeyId', 'secretAccessKey'],
      ['name'],
    ],
  );
  t.equal((await app.call(`${configs}/${id}/validate`, { method: 'POST' })).json.valid, true);
});

t.test('renews sessions of a role during an upload', needsAws, async t => {
  const { aws, externalId, exporter } = await start(t);
  const { destination, clientEnvironment } = aws;
  t.teardown(() => {
    aws.sessionMs = null;
  });
  aws.sessionMs = 1_000;
  aws.requests.length = 0;
  const access = { roleArn: exporter, externalId };
  const client = createS3Client(destination, access, clientEnvironment, runTimeouts);
  const uploaded = await uploadObject(client, uploadRequest(destination, 9 * mebibyte));
  client.destroy();
  t.strictSame(uploaded, await digestOf(9 * mebibyte));
  const ofStorage = aws.requests.filter(({ form }) => form === null);
  t.ok(new Set(ofStorage.map(({ accessKeyId }) => accessKeyId)).size > 1, 'several sessions');
});

t.test('sends the identity of the operator to STS alone', needsAws, async t => {
  const { aws, app, configs, exporter, create } = await start(t);
  aws.requests.length = 0;
  t.equal((await create({ roleArn: exporter })).status, 201);
  const headers: string[] = [];
  const endpoint = await fakeEndpoint((request, response) => {
    headers.push(JSON.stringify(request.rawHeaders));
    response.writeHead(403).end();
  });
  t.teardown(endpoint.close);
  const key = { accessKeyId: 'AKIATEST', secretAccessKey: 'not-a-real-secret' };
  const json = { ...bodyOf(aws, key), ...endpoint.destination, bucketUrl: undefined };
  await app.call(`${configs}/validate`, { method: 'POST', json });
  t.equal(headers.length, 2);
  t.notMatch(headers.join(), aws.operator.accessKeyId);
  const hosts = aws.requests.filter(({ accessKeyId }) => accessKeyId === aws.operator.accessKeyId);
  t.strictSame(new Set(hosts.map(({ host }) => host)), new Set(['sts.us-east-1.amazonaws.com']));
});
