import t from 'tap';
import { listAuditLog, recordChange, systemActor } from '../../src/audit/audit-log.ts';
import { revokeApiKey } from '../../src/environments/auth/api-keys-repository.ts';
import {
  deleteEnvironment,
  putEnvironment,
} from '../../src/environments/environments-repository.ts';
import { deleteSnapshot } from '../../src/snapshots/registry-repository.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startTestApp } from '../helpers/app.ts';
import { registerSecret } from '../helpers/secrets.ts';

const app = await startTestApp(t);
const { db } = app.dependencies;
const operator = { kind: 'operator', id: null };

let seen = 0;
/** Returns the lines since the last call, oldest first, without members that always differ. */
async function fresh(): Promise<Record<string, unknown>[]> {
  const { rows } = await app.database.pool.query(
    'select * from audit_log where id > $1 order by id',
    [seen],
  );
  seen = Number(rows.at(-1)?.id ?? seen);
  return rows.map(({ id: _id, at: _at, request_id, ...line }) => {
    const given = line['caller_request_id'];
    if (given !== null) t.match(request_id, /^[0-9a-f-]{36}$/, 'the id of the service');
    t.not(request_id, 'r-1');
    return line;
  });
}
const line = (line: object) => ({
  actor_kind: 'operator',
  actor_id: null,
  environment_id: 'acme',
  target_id: 'acme',
  details: {},
  caller_request_id: 'r-1',
  ...line,
});
const send = (path: string, method: string, json?: unknown, token?: string) =>
  app.call(`/v1/environments/${path}`, {
    method,
    headers: { 'x-request-id': 'r-1' },
    ...(json === undefined ? {} : { json }),
    ...(token === undefined ? {} : { token }),
  });

t.test('records the creation, each real change and the deletion of an environment', async t => {
  await send('acme', 'PUT', { name: 'Acme', plan: 'free' });
  t.strictSame(await fresh(), [line({ action: 'environment.created', details: { plan: 'free' } })]);
  await send('acme', 'PUT', { name: 'Acme', plan: 'pro' });
  t.strictSame(await fresh(), [
    line({
      action: 'environment.updated',
      details: { changed: ['plan'], plan: { before: 'free', after: 'pro' } },
    }),
  ]);
  await send('acme', 'PUT', { name: 'ACME', plan: 'enterprise' });
  t.strictSame((await fresh())[0]?.['details'], {
    changed: ['name', 'plan'],
    plan: { before: 'pro', after: 'enterprise' },
  });
  t.equal((await send('acme', 'PUT', { name: 'ACME', plan: 'enterprise' })).status, 200);
  t.strictSame(await fresh(), []);
  await send('acme', 'DELETE');
  t.strictSame(await fresh(), [
    line({ action: 'environment.deleted', details: { plan: 'enterprise' } }),
  ]);
});

t.test('records concurrent changes of one environment in their order', async t => {
  const plans = ['free', 'pro', 'enterprise'] as const;
  const answers = await Promise.all(
    Array.from({ length: 12 }, (_, index) =>
      send('race', 'PUT', { name: 'x', plan: plans[index % 3] }),
    ),
  );
  t.equal(answers.filter(({ status }) => status === 201).length, 1);
  const lines = await fresh();
  t.equal(lines[0]?.['action'], 'environment.created');
  let plan = (lines[0] as { details: { plan: string } }).details.plan;
  for (const { action, details } of lines.slice(1)) {
    t.equal(action, 'environment.updated');
    const told = (details as { plan: { before: string; after: string } }).plan;
    t.equal(told.before, plan);
    plan = told.after;
  }
  t.equal((await app.call('/v1/environments/race')).json.plan, plan);
});

t.test('records the creation and revocation of a key without its secret', async t => {
  await app.putEnvironment('acme', 'pro');
  await fresh();
  const body = { name: 'loader', scopes: ['exports:read'], expiresAt: '2027-01-01T00:00:00Z' };
  const made = await send('acme/api-keys', 'POST', body);
  registerSecret(made.json.key);
  const [created] = await fresh();
  t.strictSame(
    created,
    line({
      action: 'api_key.created',
      target_id: made.json.id,
      details: { scopes: ['exports:read'], expiresAt: '2027-01-01T00:00:00.000Z' },
    }),
  );
  t.notOk(JSON.stringify(created).includes(made.json.key.split('_')[2]));
  await send(`acme/api-keys/${made.json.id}`, 'DELETE');
  t.strictSame(await fresh(), [line({ action: 'api_key.revoked', target_id: made.json.id })]);
});

t.test('records each version of a snapshot and its deletion by a key', async t => {
  const key = await app.makeKey('acme', ['snapshots:write']);
  await fresh();
  const versions: string[] = [];
  for (const rows of [[adoptionRow()], []]) {
    const { json } = await app.ingest('acme', '2026-03-01', ingestBody(rows));
    versions.push(json.version);
  }
  await app.ingest('acme', '2026-03-01', 'nonsense');
  const [first, second] = versions;
  t.not(first, second);
  for (const found of await fresh()) {
    const version = versions.shift();
    const details = { version, rows: versions.length };
    t.match(found, { action: 'snapshot.ingested', target_id: '2026-03-01', details });
  }
  t.strictSame(versions, []);
  await send('acme/snapshots/2026-03-01', 'DELETE', undefined, key.token);
  t.strictSame(await fresh(), [
    line({
      actor_kind: 'api-key',
      actor_id: key.id,
      action: 'snapshot.deleted',
      target_id: '2026-03-01',
      details: { version: second, rows: 0 },
    }),
  ]);
});

t.test('records no refused request', async t => {
  const reader = await app.makeKey('acme', ['exports:read']);
  await fresh();
  const refused = [
    await send('acme', 'PUT', { name: '', plan: 'pro' }),
    await send('acme', 'PUT', { name: 'x', plan: 'pro' }, reader.token),
    await send('acme', 'DELETE', undefined, reader.token),
    await send('nowhere', 'DELETE'),
    await send('acme/api-keys', 'POST', { name: 'x', scopes: ['all'] }),
    await send('acme/api-keys/0123', 'DELETE'),
    await send('acme/snapshots/2026-01-01', 'DELETE'),
    await send('acme/snapshots/2026-01-01', 'DELETE', undefined, reader.token),
  ];
  t.strictSame(
    refused.map(({ status }) => status),
    [400, 403, 403, 404, 400, 404, 404, 403],
  );
  t.strictSame(await fresh(), []);
});

t.test('commits a change and its line together or not at all', async t => {
  const { pool } = app.database;
  const key = await app.makeKey('acme', ['exports:read']);
  await app.ingest('acme', '2026-03-01', ingestBody([adoptionRow()]));
  await fresh();
  await pool.query('alter table audit_log add constraint closed check (false) not valid');
  const put = (id: string) =>
    db
      .transaction()
      .execute(trx => putEnvironment(trx, systemActor('test'), { id, name: 'x', plan: 'free' }));
  const changes: Record<string, () => Promise<unknown>> = {
    update: () => put('acme'),
    create: () => put('other'),
    delete: () => deleteEnvironment(db, systemActor('test'), 'acme'),
    revoke: () => revokeApiKey(db, systemActor('test'), 'acme', key.id),
    snapshot: () => deleteSnapshot(db, systemActor('test'), 'acme', '2026-03-01'),
  };
  for (const [name, change] of Object.entries(changes))
    await t.rejects(async () => await change(), /closed/, name);
  await pool.query('alter table audit_log drop constraint closed');
  t.equal((await app.call('/v1/environments/acme', { token: key.token })).json.plan, 'pro');
  t.equal((await app.call('/v1/environments/other')).status, 404);
  t.equal((await app.call('/v1/environments/acme/snapshots')).json.items.length, 1);
  t.strictSame(await fresh(), []);

  const undone = db.transaction().execute(async trx => {
    await recordChange(trx, systemActor('test'), {
      environmentId: 'acme',
      action: 'snapshot.deleted',
      targetId: null,
    });
    throw new Error('undone');
  });
  await t.rejects(undone, /undone/);
  t.strictSame(await fresh(), []);
});

t.test('lists lines newest first, in pages and filtered, for the operator only', async t => {
  await app.putEnvironment('listed', 'pro');
  for (let count = 0; count < 4; count += 1) await app.makeKey('listed', ['exports:read']);
  await app.putEnvironment('listed', 'free');
  const member = await app.makeKey('listed', ['exports:read', 'exports:write', 'snapshots:write']);
  await app.database.pool.query(
    `update audit_log set at = '2026-03-02T10:00:00.123Z' where id % 3 > 0`,
  );
  const pages = async (query: string) => {
    const items: Record<string, unknown>[] = [];
    for (let cursor: string | null = ''; cursor !== null; ) {
      const { json, status } = await app.call(
        `/v1/audit-log?limit=2${query}${cursor && `&cursor=${cursor}`}`,
      );
      t.equal(status, 200);
      items.push(...json.items);
      cursor = json.nextCursor;
    }
    return items;
  };
  const { rows } = await app.database.pool.query(
    'select id::text from audit_log order by at desc, audit_log.id desc',
  );
  const all = await pages('');
  t.strictSame(
    all.map(({ id }) => id),
    rows.map(({ id }) => id),
  );
  const ofListed = all.filter(({ environmentId }) => environmentId === 'listed');
  t.strictSame(await pages('&environmentId=listed'), ofListed);
  const made = await pages('&environmentId=listed&action=api_key.created');
  t.equal(made.length, 5);
  t.ok(made.every(({ action }) => action === 'api_key.created'));
  t.equal((await pages('&action=environment.updated')).length > 0, true);
  t.strictSame(await pages('&environmentId=nowhere'), []);
  const updated = await pages('&environmentId=listed&action=environment.updated');
  t.match(updated, [
    {
      actor: operator,
      targetId: 'listed',
      details: { changed: ['plan'] },
      requestId: /^[0-9a-f-]{36}$/,
      callerRequestId: null,
    },
  ]);

  await send('listed', 'DELETE');
  const after = await pages('&environmentId=listed');
  t.equal(
    after.length,
    ofListed.length + 1,
    'the lines stay after the deletion of the environment',
  );
  t.ok(after.some(({ action }) => action === 'environment.deleted'));

  for (const query of [
    'action=nothing',
    'environmentId=a%00b',
    'environmentId=',
    'limit=0',
    'cursor=x',
    `cursor=${Buffer.from('["2026-03-02T10:00:00.123Z","9999999999999999999"]').toString('base64url')}`,
  ]) {
    t.equal((await app.call(`/v1/audit-log?${query}`)).json.code, 'validation_failed', query);
  }
  t.equal(
    (await app.call('/v1/audit-log', { token: member.token })).status,
    401,
    'the key was deleted with its environment',
  );
  const reader = await app.makeKey('acme', ['exports:write']);
  t.equal(
    (await app.call('/v1/audit-log', { token: reader.token })).json.code,
    'insufficient_scope',
  );
  t.equal(
    (await listAuditLog(db, { environmentId: null, action: null }, { before: null, limit: 3 }))
      .length,
    3,
  );
});
