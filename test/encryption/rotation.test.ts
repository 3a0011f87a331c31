import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import { readConfig } from '../../src/config/config.ts';
import { resealSecrets } from '../../src/encryption/rotation.ts';
import { isSealedUnderFirstKey, openSecret, sealSecret } from '../../src/encryption/secrets.ts';
import { getConfig } from '../../src/export-configs/list-configs.ts';
import { replaceConfig, type StoredKey } from '../../src/export-configs/repository.ts';
import { startApp, startTestApp } from '../helpers/app.ts';
import { registerSecret, testAdminToken, testEncryptionKeys } from '../helpers/secrets.ts';
import { compileCache } from '../helpers/start-flags.ts';
import { startWebhookReceiver } from '../helpers/webhook-receiver.ts';

/** Runs `npm run secrets:rotate` as a process. */

const program = path.join(import.meta.dirname, '../../src/cli/rotate-secrets.ts');
const secretOf = (index: number) => `rotated-secret-${index}-0123456789`;

t.test('moves every secret to the first key in pages, and prints the number', async t => {
  const app = await startTestApp(t);
  await app.putEnvironment('acme');
  await app.putEnvironment('other');
  const env = {
    DATABASE_URL: app.database.url,
    ADMIN_TOKEN: testAdminToken,
    ENCRYPTION_KEYS: `${testEncryptionKeys.second},${testEncryptionKeys.first}`,
  };
  const before = readConfig({ ...env, ENCRYPTION_KEYS: testEncryptionKeys.first }).encryptionKeys;
  const after = readConfig(env).encryptionKeys;
  const rows = Array.from({ length: 1_201 }, (_, index) => {
    const owner = { environmentId: index % 2 === 0 ? 'acme' : 'other', configId: `c${index}` };
    return { ...owner, sealed: sealSecret(before, secretOf(index), owner) };
  });
  registerSecret(secretOf(0));
  await app.database.pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
       access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at)
     select e, i, 'c', true, 'daily', 'custom', 'b', 'r', '', 'https://s3.example.com', 'id', s, 'none', false, now(), now(), now()
     from unnest($1::text[], $2::text[], $3::text[]) as given (e, i, s)`,
    [
      rows.map(row => row.environmentId),
      rows.map(row => row.configId),
      rows.map(row => row.sealed),
    ],
  );
  const rotate = () =>
    promisify(execFile)(process.execPath, [program], { env: { ...env, ...compileCache() } });
  t.equal((await rotate()).stdout, 'Moved 1201 of 1201 secrets to the key "2025b".\n');
  t.equal((await rotate()).stdout, 'Moved 0 of 1201 secrets to the key "2025b".\n');
  const stored = await app.database.pool.query(
    'select environment_id, id, sealed_secret from export_configs',
  );
  t.equal(stored.rowCount, 1_201);
  let right = 0;
  for (const row of stored.rows) {
    const owner = { environmentId: row.environment_id, configId: row.id };
    const opened = openSecret(after, row.sealed_secret, owner);
    if (
      isSealedUnderFirstKey(after, row.sealed_secret) &&
      opened === secretOf(Number(row.id.slice(1)))
    )
      right += 1;
  }
  t.equal(right, 1_201);
  const told = await app.database.pool.query(
    `select count(*)::int as lines, count(distinct (environment_id, target_id))::int as configs, actor_kind, actor_id, details
     from audit_log where action = 'export_config.secret_resealed' group by actor_kind, actor_id, details`,
  );
  const details = { encryptionKeyId: '2025b' };
  t.strictSame(told.rows, [
    { lines: 1_201, configs: 1_201, actor_kind: 'system', actor_id: 'secrets:rotate', details },
  ]);

  // A secret under a lost key stays as it is and is reported.
  await app.database.pool.query(
    `update export_configs set sealed_secret = 'v1.lost.' || repeat('A', 40) where id = 'c0'`,
  );
  const failed = await rotate().catch(
    (error: { code: number; stdout: string; stderr: string }) => error,
  );
  t.match(failed, { code: 1, stdout: 'Moved 0 of 1201 secrets', stderr: '1 could not be read' });
});

t.test('keeps the new secret of a config that changes meanwhile', async t => {
  const app = await startTestApp(t);
  const { db } = app.dependencies;
  await app.putEnvironment('acme');
  const keys = readConfig({
    DATABASE_URL: app.database.url,
    ADMIN_TOKEN: testAdminToken,
    ENCRYPTION_KEYS: `${testEncryptionKeys.second},${testEncryptionKeys.first}`,
  }).encryptionKeys;
  const [first, second] = keys;
  const owner = { environmentId: 'acme', configId: 'c' };
  const sealed = sealSecret(
    [second ?? first],
    registerSecret('changed-meanwhile-0123456789'),
    owner,
  );
  await app.database.pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
       access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at)
     values ('acme', 'c', 'c', true, 'daily', 'custom', 'b', 'r', '', 'https://s3.example.com', 'id', $1, 'none', false, now(), now(), now())`,
    [sealed],
  );
  const { config } = await getConfig(db, 'acme', 'c');
  t.match(await resealSecrets(db, keys), { total: 1, moved: 1 });
  const changed = {
    ...config,
    name: 'renamed',
    updatedAt: new Date(config.updatedAt.getTime() + 1),
  };
  t.equal(await replaceConfig(db, changed, config, false), true);
  const { config: stored } = await getConfig(db, 'acme', 'c');
  t.equal(stored.name, 'renamed');
  const { sealedSecret } = stored.access as StoredKey;
  t.ok(isSealedUnderFirstKey(keys, sealedSecret));
  t.equal(openSecret(keys, sealedSecret, owner), 'changed-meanwhile-0123456789');
});

t.test('moves the secrets of webhooks, which sign as before', async t => {
  const receiver = await startWebhookReceiver(t);
  const app = await startTestApp(t, { env: { S3_ENDPOINT_ALLOWLIST: '127.0.0.1' } });
  const ids = ['acme', 'other'];
  const secrets = new Map<string, string>();
  for (const id of ids) {
    const json = { name: id, plan: 'enterprise', failureWebhook: receiver.url };
    const saved = await app.call(`/v1/environments/${id}`, { method: 'PUT', json });
    secrets.set(id, registerSecret(saved.json.failureWebhookSecret));
  }
  await app.putEnvironment('without');
  const env = (keys: string) => ({
    DATABASE_URL: app.database.url,
    ADMIN_TOKEN: testAdminToken,
    ENCRYPTION_KEYS: keys,
    ...compileCache(),
  });
  const both = `${testEncryptionKeys.second},${testEncryptionKeys.first}`;
  const rotate = () => promisify(execFile)(process.execPath, [program], { env: env(both) });
  t.equal((await rotate()).stdout, 'Moved 2 of 2 secrets to the key "2025b".\n');
  t.equal((await rotate()).stdout, 'Moved 0 of 2 secrets to the key "2025b".\n');
  const { rows } = await app.database.pool.query(
    `select environment_id, target_id, actor_id from audit_log where action = 'failure_webhook.secret_resealed' order by 1`,
  );
  t.strictSame(
    rows,
    ids.map(id => ({ environment_id: id, target_id: id, actor_id: 'secrets:rotate' })),
  );
  // The old key is no longer needed.
  const after = await startApp(t, {
    databaseUrl: app.database.url,
    env: { S3_ENDPOINT_ALLOWLIST: '127.0.0.1', ENCRYPTION_KEYS: testEncryptionKeys.second },
  });
  for (const [index, id] of ids.entries()) {
    const tried = await after.call(`/v1/environments/${id}/failure-webhook/test`, {
      method: 'POST',
    });
    t.equal(tried.json.delivered, true);
    t.equal(receiver.received[index]?.isSignedWith(secrets.get(id) ?? ''), true);
  }
  // A secret is sealed for one environment and does not open for another.
  await app.database.pool.query(
    `update failure_webhooks set sealed_secret = (select sealed_secret from failure_webhooks where environment_id = 'acme')`,
  );
  const stolen = await after.call('/v1/environments/other/failure-webhook/test', {
    method: 'POST',
  });
  t.match(stolen.json, { delivered: false, status: null, error: { code: 'secret_unreadable' } });
});
