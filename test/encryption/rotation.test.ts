import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import { readConfig } from '../../src/config/config.ts';
import { resealSecrets } from '../../src/encryption/rotation.sql.ts';
import { isSealedUnderFirstKey, openSecret, sealSecret } from '../../src/encryption/secrets.ts';
import { getConfig } from '../../src/export-configs/list-configs.sql.ts';
import { replaceConfig, type StoredKey } from '../../src/export-configs/repository.ts';
import { startApp, startTestApp } from '../helpers/app.ts';
import { emptyTables } from '../helpers/postgres.ts';
import { registerSecret, testAdminToken, testEncryptionKeys } from '../helpers/secrets.ts';
import { compileCache } from '../helpers/start-flags.ts';
import { startWebhookReceiver } from '../helpers/webhook-receiver.ts';

/** Runs `npm run secrets:rotate` as a process. */

const program = path.join(import.meta.dirname, '../../src/cli/rotate-secrets.ts');
const secretOf = (index: number) => `rotated-secret-${index}-0123456789`;

const receiver = await startWebhookReceiver(t);
const app = await startTestApp(t, { env: { S3_ENDPOINT_ALLOWLIST: '127.0.0.1' } });
const { pool } = app.database;
const { db } = app.dependencies;
const env = {
  DATABASE_URL: app.database.url,
  ADMIN_TOKEN: testAdminToken,
  ENCRYPTION_KEYS: `${testEncryptionKeys.second},${testEncryptionKeys.first}`,
};
const before = readConfig({ ...env, ENCRYPTION_KEYS: testEncryptionKeys.first }).encryptionKeys;
const after = readConfig(env).encryptionKeys;
const rotate = () =>
  promisify(execFile)(process.execPath, [program], { env: { ...env, ...compileCache() } });

t.beforeEach(() => emptyTables(pool));

t.test('moves every secret to the first key in pages, and prints the number', async t => {
  const ids = ['acme', 'other'];
  const webhookSecrets = new Map<string, string>();
  for (const id of ids) {
    const json = { name: id, plan: 'enterprise', failureWebhook: receiver.url };
    const saved = await app.call(`/v1/environments/${id}`, { method: 'PUT', json });
    webhookSecrets.set(id, registerSecret(saved.json.failureWebhookSecret));
  }
  await app.putEnvironment('without');
  const rows = Array.from({ length: 1_201 }, (_, index) => {
    const owner = { environmentId: ids[index % 2] ?? '', configId: `c${index}` };
    return { ...owner, sealed: sealSecret(before, secretOf(index), owner) };
  });
  registerSecret(secretOf(0));
  await pool.query(
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
  t.equal((await rotate()).stdout, 'Moved 1203 of 1203 secrets to the key "2025b".\n');
  t.match(await resealSecrets(db, after), { total: 1_203, moved: 0 });
  const stored = await pool.query('select environment_id, id, sealed_secret from export_configs');
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
  const told = await pool.query(
    `select count(*)::int as lines, count(distinct (environment_id, target_id))::int as configs, actor_kind, actor_id, details
     from audit_log where action = 'export_config.secret_resealed' group by actor_kind, actor_id, details`,
  );
  const details = { encryptionKeyId: '2025b' };
  t.strictSame(told.rows, [
    { lines: 1_201, configs: 1_201, actor_kind: 'system', actor_id: 'secrets:rotate', details },
  ]);

  const { rows: lines } = await pool.query(
    `select environment_id, target_id, actor_id from audit_log
     where action = 'failure_webhook.secret_resealed' order by 1`,
  );
  t.strictSame(
    lines,
    ids.map(id => ({ environment_id: id, target_id: id, actor_id: 'secrets:rotate' })),
  );

  // The old key is no longer needed, and webhooks sign as before.
  const withNewKey = await startApp(t, {
    databaseUrl: app.database.url,
    env: { S3_ENDPOINT_ALLOWLIST: '127.0.0.1', ENCRYPTION_KEYS: testEncryptionKeys.second },
  });
  const tryWebhook = async (id: string) =>
    (
      await withNewKey.call(`/v1/environments/${id}/failure-webhook/test`, {
        method: 'POST',
      })
    ).json;
  for (const [index, id] of ids.entries()) {
    t.equal((await tryWebhook(id)).delivered, true);
    t.equal(receiver.received[index]?.isSignedWith(webhookSecrets.get(id) ?? ''), true);
  }
  // A secret is sealed for one environment and does not open for another.
  await pool.query(
    `update failure_webhooks set sealed_secret =
       (select sealed_secret from failure_webhooks where environment_id = 'acme')`,
  );
  t.match(await tryWebhook('other'), {
    delivered: false,
    status: null,
    error: { code: 'secret_unreadable' },
  });

  // A secret under a lost key stays as it is and is reported.
  await pool.query(
    `update export_configs set sealed_secret = 'v1.lost.' || repeat('A', 40) where id = 'c0'`,
  );
  const failed = await rotate().catch(
    (error: { code: number; stdout: string; stderr: string }) => error,
  );
  t.match(failed, { code: 1, stdout: 'Moved 0 of 1203 secrets', stderr: '1 could not be read' });
});

t.test('keeps the new secret of a config that changes meanwhile', async t => {
  await app.putEnvironment('acme');
  const [first, second] = after;
  const owner = { environmentId: 'acme', configId: 'c' };
  const sealed = sealSecret(
    [second ?? first],
    registerSecret('changed-meanwhile-0123456789'),
    owner,
  );
  await pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
       access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at)
     values ('acme', 'c', 'c', true, 'daily', 'custom', 'b', 'r', '', 'https://s3.example.com', 'id', $1, 'none', false, now(), now(), now())`,
    [sealed],
  );
  const { config } = await getConfig(db, 'acme', 'c');
  t.match(await resealSecrets(db, after), { total: 1, moved: 1 });
  const changed = {
    ...config,
    name: 'renamed',
    updatedAt: new Date(config.updatedAt.getTime() + 1),
  };
  t.equal(await replaceConfig(db, changed, config, false), true);
  const { config: stored } = await getConfig(db, 'acme', 'c');
  t.equal(stored.name, 'renamed');
  const { sealedSecret } = stored.access as StoredKey;
  t.ok(isSealedUnderFirstKey(after, sealedSecret));
  t.equal(openSecret(after, sealedSecret, owner), 'changed-meanwhile-0123456789');
});
