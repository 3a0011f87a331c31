import t from 'tap';
import { systemActor } from '../../../src/audit/audit-log-repository.ts';
import { createApiKey, maxApiKeys } from '../../../src/environments/auth/api-keys-repository.ts';
import { toAppError } from '../../../src/http/error-handler.ts';
import { startApp, startTestApp, testNow } from '../../helpers/app.ts';
import { registerSecret } from '../../helpers/secrets.ts';

const env = { RATE_LIMIT_FAILED_LOGINS: '30' };
const app = await startTestApp(t, { env });
/** Another process of the service. */
const other = await startApp(t, { databaseUrl: app.database.url, env });
await app.putEnvironment('acme', 'pro');
const keysPath = '/v1/environments/acme/api-keys';

t.test('shows a key once and stores only its hash', async t => {
  await app.putEnvironment('shown', 'pro');
  const path = '/v1/environments/shown/api-keys';
  const made = await app.call(path, {
    method: 'POST',
    json: {
      name: 'loader 😀',
      scopes: ['exports:read', 'snapshots:write'],
      expiresAt: '2026-04-01T00:00:00+02:00',
    },
  });
  t.equal(made.status, 201);
  const { key, id, createdAt, ...rest } = made.json;
  registerSecret(key);
  t.strictSame(rest, {
    name: 'loader 😀',
    scopes: ['exports:read', 'snapshots:write'],
    expiresAt: '2026-03-31T22:00:00.000Z',
  });
  t.match(key, new RegExp(`^whx_${id}_[0-9a-f]{64}$`));
  const secret = key.split('_')[2];

  const listed = await app.call(path);
  t.strictSame(listed.json.items, [{ id, createdAt, ...rest }]);
  t.notOk(listed.text.includes(secret));
  const { rows } = await app.database.pool.query(
    'select api_keys::text as line, secret_hash from api_keys where id = $1',
    [id],
  );
  t.notOk(rows[0].line.includes(secret));
  t.notOk(rows[0].line.includes(Buffer.from(secret).toString('hex')));
  t.equal(rows[0].secret_hash.length, 32);
  t.notOk(JSON.stringify(app.log).includes(secret));
});

t.test('refuses a key from the millisecond of its expiry', async t => {
  const key = await app.makeKey('acme', ['exports:read'], '2026-03-02T11:00:00.000Z');
  t.teardown(() => app.setNow(testNow));
  const ask = async () => (await app.call('/v1/environments/acme', { token: key.token })).status;
  app.setNow('2026-03-02T10:59:59.999Z');
  t.equal(await ask(), 200);
  app.setNow('2026-03-02T11:00:00.000Z');
  t.equal(await ask(), 401);
});

t.test('refuses a revoked key at once in every process', async t => {
  const key = await app.makeKey('acme', ['exports:read']);
  const ask = async (where: typeof other) =>
    (await where.call('/v1/environments/acme', { token: key.token })).status;
  t.equal(await ask(app), 200);
  t.equal(await ask(other), 200);
  t.equal((await app.call(`${keysPath}/${key.id}`, { method: 'DELETE' })).status, 204);
  t.equal(await ask(other), 401);
  t.equal(await ask(app), 401);
  t.equal((await app.call(`${keysPath}/${key.id}`, { method: 'DELETE' })).status, 404);
});

t.test(
  'refuses a key in every process at once after its expiry or its environment’s deletion',
  async t => {
    await app.putEnvironment('brief', 'pro');
    const lasting = await app.makeKey('brief', ['exports:read']);
    const expiring = await app.makeKey('brief', ['exports:read'], '2026-03-02T11:00:00.000Z');
    const statuses = (key: { token: string }) =>
      Promise.all(
        [app, other].map(
          async one => (await one.call('/v1/environments/brief', { token: key.token })).status,
        ),
      );
    t.strictSame(await statuses(lasting), [200, 200]);
    t.strictSame(await statuses(expiring), [200, 200]);
    t.teardown(() => {
      for (const one of [app, other]) one.setNow(testNow);
    });
    app.setNow('2026-03-02T11:00:00.000Z');
    t.strictSame(await statuses(expiring), [401, 200], 'each process uses its own clock');
    other.setNow('2026-03-02T11:00:00.000Z');
    t.strictSame(await statuses(expiring), [401, 401]);
    await app.database.pool.query('update api_keys set expires_at = $1 where id = $2', [
      '2026-03-02T11:00:00Z',
      lasting.id,
    ]);
    t.strictSame(await statuses(lasting), [401, 401], 'no process caches a key');
    await app.database.pool.query('update api_keys set expires_at = null where id = $1', [
      lasting.id,
    ]);
    t.strictSame(await statuses(lasting), [200, 200]);
    await app.call('/v1/environments/brief', { method: 'DELETE' });
    t.strictSame(await statuses(lasting), [401, 401]);
  },
);

t.test('does not revoke a key of another environment', async t => {
  await app.putEnvironment('other', 'pro');
  const key = await app.makeKey('other', ['exports:read']);
  t.equal((await app.call(`${keysPath}/${key.id}`, { method: 'DELETE' })).status, 404);
  t.equal((await app.call('/v1/environments/other', { token: key.token })).status, 200);
  t.equal((await app.call('/v1/environments/other', { method: 'DELETE' })).status, 204);
  t.equal((await app.call('/v1/environments/other', { token: key.token })).status, 401);
});

const good = { name: 'k', scopes: ['exports:read'] };
const bad: readonly [json: unknown, path: string][] = [
  [{}, '/name'],
  [[], ''],
  [null, ''],
  ['text', ''],
  [{ ...good, name: '' }, '/name'],
  [{ ...good, name: 'x'.repeat(201) }, '/name'],
  [{ ...good, name: 1 }, '/name'],
  [{ ...good, name: 'a\u0000b' }, '/name'],
  [{ ...good, scopes: [] }, '/scopes'],
  [{ ...good, scopes: ['exports:read', 'exports:read'] }, '/scopes'],
  [{ ...good, scopes: ['admin'] }, '/scopes/0'],
  [{ ...good, scopes: 'exports:read' }, '/scopes'],
  [{ ...good, expiresAt: '2026-03-02T10:00:00.000Z' }, '/expiresAt'],
  [{ ...good, expiresAt: '2020-01-01T00:00:00Z' }, '/expiresAt'],
  [{ ...good, expiresAt: 'tomorrow' }, '/expiresAt'],
  [{ ...good, expiresAt: '2027-02-30T00:00:00Z' }, '/expiresAt'],
  [{ ...good, expiresAt: '2027-01-01' }, '/expiresAt'],
  [{ ...good, expiresAt: '9999-12-31T23:59:59-15:00' }, '/expiresAt'],
  [{ ...good, expiresAt: 1_800_000_000 }, '/expiresAt'],
  [{ ...good, plan: 'enterprise' }, '/plan'],
  [{ ...good, id: 'x', key: 'y' }, '/id'],
];

t.test('refuses invalid bodies of a new key', async t => {
  for (const [json, path] of bad) {
    const answer = await app.call(keysPath, { method: 'POST', json });
    const what = JSON.stringify(json).slice(0, 80);
    t.equal(answer.status, 400, what);
    t.equal(answer.json.code, 'validation_failed', what);
    t.ok(
      answer.json.errors?.some((error: { path: string }) => error.path === path),
      `${what}: ${answer.text}`,
    );
  }
});

t.test('lists keys in pages, newest first, also with equal instants', async t => {
  await app.putEnvironment('many', 'pro');
  const ids: string[] = [];
  for (let count = 0; count < 7; count += 1)
    ids.push((await app.makeKey('many', ['exports:read'])).id);
  await app.database.pool.query(
    `update api_keys set created_at = now() where environment_id = 'many'`,
  );
  const seen: string[] = [];
  let cursor: string | null = null;
  do {
    const query: string = cursor === null ? '' : `&cursor=${cursor}`;
    const { json } = await app.call(`/v1/environments/many/api-keys?limit=3${query}`);
    seen.push(...json.items.map((item: { id: string }) => item.id));
    cursor = json.nextCursor;
  } while (cursor !== null);
  t.strictSame(seen, ids.toSorted().reverse());
  for (const query of ['limit=0', 'limit=101', 'limit=x', 'cursor=x', 'limit=-1', 'limit=']) {
    t.equal((await app.call(`/v1/environments/many/api-keys?${query}`)).status, 400, query);
  }
  for (const instant of ['+275760-09-13T00:00:00.000Z', '-000001-01-01T00:00:00.000Z', '2026']) {
    const forged = Buffer.from(JSON.stringify([instant, 'abc'])).toString('base64url');
    t.equal(
      (await app.call(`/v1/environments/many/api-keys?cursor=${forged}`)).status,
      400,
      instant,
    );
  }
});

t.test('limits an environment to 100 API keys, also under concurrent creation', async t => {
  const create = async (id: string) => {
    const json = { name: 'one of many', scopes: ['exports:read'] };
    const path = `/v1/environments/${id}/api-keys`;
    const answer = await app.call(path, { method: 'POST', json });
    if (answer.status === 201) registerSecret(answer.json.key);
    return answer;
  };
  await app.putEnvironment('full');
  await app.putEnvironment('beside');
  await app.database.pool.query(
    `insert into api_keys (environment_id, id, name, scopes, secret_hash)
     select 'full', 'k' || n, 'x', '{exports:read}', sha256(n::text::bytea)
     from generate_series(1, $1) n`,
    [maxApiKeys - 2],
  );
  const answers = await Promise.all(Array.from({ length: 10 }, () => create('full')));
  t.equal(answers.filter(({ status }) => status === 201).length, 2);
  const refused = answers.filter(({ status }) => status === 409);
  t.equal(refused.length, 8);
  for (const { json } of refused) {
    t.match(json, { code: 'conflict', detail: /at most 100 API keys.*Revoke one first/ });
  }
  t.equal((await create('beside')).status, 201, 'another environment can still create keys');

  const revoked = await app.call('/v1/environments/full/api-keys/k1', { method: 'DELETE' });
  t.equal(revoked.status, 204);
  t.equal((await create('full')).status, 201);
  t.equal((await create('full')).status, 409);
});

t.test('answers not_found if the environment of a new key was deleted meanwhile', async t => {
  const input = {
    environmentId: 'gone',
    name: 'late',
    scopes: ['exports:read'],
    expiresAt: null,
  } as const;
  const error = await createApiKey(app.dependencies.db, systemActor('test'), input).catch(
    (thrown: unknown) => thrown,
  );
  t.equal(toAppError(error).code, 'not_found');
});
