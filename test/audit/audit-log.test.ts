import t from 'tap';
import { listAuditLog, recordChange, systemActor } from '../../src/audit/audit-log-repository.ts';
import { revokeApiKey } from '../../src/environments/auth/api-keys-repository.ts';
import {
  deleteEnvironment,
  putEnvironment,
} from '../../src/environments/environments-repository.ts';
import { deleteSnapshot } from '../../src/snapshots/registry-repository.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startApp } from '../helpers/app.ts';
import { configBody, credentialsOf, startExportApp } from '../helpers/export-configs.ts';
import { ask, open } from '../helpers/http-client.ts';
import { needsS3, s3Server } from '../helpers/s3.ts';
import { registerSecret } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { writeWideSnapshot } from '../helpers/wide-snapshot.ts';

const app = await startExportApp(t);
const { pool } = app.database;
const { db } = app.dependencies;
await app.putEnvironment('acme', 'pro');
const operator = { kind: 'operator', id: null };

/**
 * Returns a function that reads the lines since the last call, oldest first, without members that
 * always differ.
 */
async function watchLog(): Promise<() => Promise<Record<string, unknown>[]>> {
  const last = await pool.query('select coalesce(max(id), 0) as id from audit_log');
  let seen = last.rows[0].id;
  return async () => {
    const { rows } = await pool.query('select * from audit_log where id > $1 order by id', [seen]);
    seen = rows.at(-1)?.id ?? seen;
    return rows.map(({ id: _id, at: _at, request_id, ...line }) => {
      const given = line['caller_request_id'];
      if (given !== null) t.match(request_id, /^[0-9a-f-]{36}$/, 'the id of the service');
      t.not(request_id, 'r-1');
      return line;
    });
  };
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
  const fresh = await watchLog();
  const own = { environment_id: 'brief', target_id: 'brief' };
  await send('brief', 'PUT', { name: 'Brief', plan: 'free' });
  t.strictSame(await fresh(), [
    line({ ...own, action: 'environment.created', details: { plan: 'free' } }),
  ]);
  await send('brief', 'PUT', { name: 'Brief', plan: 'pro' });
  t.strictSame(await fresh(), [
    line({
      ...own,
      action: 'environment.updated',
      details: { changed: ['plan'], plan: { before: 'free', after: 'pro' } },
    }),
  ]);
  await send('brief', 'PUT', { name: 'BRIEF', plan: 'enterprise' });
  t.strictSame((await fresh())[0]?.['details'], {
    changed: ['name', 'plan'],
    plan: { before: 'pro', after: 'enterprise' },
  });
  t.equal((await send('brief', 'PUT', { name: 'BRIEF', plan: 'enterprise' })).status, 200);
  t.strictSame(await fresh(), []);
  await send('brief', 'DELETE');
  t.strictSame(await fresh(), [
    line({ ...own, action: 'environment.deleted', details: { plan: 'enterprise' } }),
  ]);
});

t.test('records concurrent changes of one environment in their order', async t => {
  const fresh = await watchLog();
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
  const fresh = await watchLog();
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
  const fresh = await watchLog();
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
  const fresh = await watchLog();
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
  await app.putEnvironment('whole', 'pro');
  const key = await app.makeKey('whole', ['exports:read']);
  await app.ingest('whole', '2026-03-01', ingestBody([adoptionRow()]));
  const fresh = await watchLog();
  await pool.query('alter table audit_log add constraint closed check (false) not valid');
  const put = (id: string) =>
    db
      .transaction()
      .execute(trx => putEnvironment(trx, systemActor('test'), { id, name: 'x', plan: 'free' }));
  const changes: Record<string, () => Promise<unknown>> = {
    update: () => put('whole'),
    create: () => put('other'),
    delete: () => deleteEnvironment(db, systemActor('test'), 'whole'),
    revoke: () => revokeApiKey(db, systemActor('test'), 'whole', key.id),
    snapshot: () => deleteSnapshot(db, systemActor('test'), 'whole', '2026-03-01'),
  };
  for (const [name, change] of Object.entries(changes))
    await t.rejects(async () => await change(), /closed/, name);
  await pool.query('alter table audit_log drop constraint closed');
  t.equal((await app.call('/v1/environments/whole', { token: key.token })).json.plan, 'pro');
  t.equal((await app.call('/v1/environments/other')).status, 404);
  t.equal((await app.call('/v1/environments/whole/snapshots')).json.items.length, 1);
  t.strictSame(await fresh(), []);

  const undone = db.transaction().execute(async trx => {
    await recordChange(trx, systemActor('test'), {
      environmentId: 'whole',
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
  await pool.query(`update audit_log set at = '2026-03-02T10:00:00.123Z' where id % 3 > 0`);
  const pages = async (query: string) => {
    const items: Record<string, unknown>[] = [];
    for (let cursor: string | null = ''; cursor !== null; ) {
      const { json, status } = await app.call(
        `/v1/audit-log?limit=4${query}${cursor && `&cursor=${cursor}`}`,
      );
      t.equal(status, 200);
      items.push(...json.items);
      cursor = json.nextCursor;
    }
    return items;
  };
  const { rows } = await pool.query(
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

t.test('records downloads in the audit log', async t => {
  await app.putEnvironment('read', 'pro');
  await app.putEnvironment('wide', 'pro');
  await app.ingest('read', '2026-03-01', ingestBody([adoptionRow()]));
  await writeWideSnapshot(pool, {
    environmentId: 'wide',
    date: '2026-03-01',
    rows: 100,
    nameBytes: 50_000,
  });
  const key = await app.makeKey('read', ['exports:read']);

  interface Line {
    readonly actor: object;
    readonly action: string;
    readonly targetId: string;
    readonly details: Record<string, unknown>;
    readonly requestId: string;
  }

  async function linesOf(environmentId: string, action: string): Promise<Line[]> {
    const answer = await app.call(
      `/v1/audit-log?environmentId=${environmentId}&action=${action}&limit=100`,
    );
    return answer.json.items;
  }

  async function countLines(): Promise<number> {
    const { rowCount } = await pool.query(
      `select from audit_log where action = 'export.downloaded'`,
    );
    return rowCount ?? 0;
  }

  let seen = 0;
  /** Waits for exactly one further audit entry of a download and returns it. */
  async function nextLine(environmentId = 'read'): Promise<Line | undefined> {
    await waitFor('an audit entry of a download', async () => (await countLines()) > seen);
    seen += 1;
    if ((await countLines()) !== seen) throw new Error('more audit entries than downloads');
    return (await linesOf(environmentId, 'export.downloaded'))[0];
  }

  t.test('writes one audit entry per download with caller, file, outcome and bytes', async t => {
    const path = '/v1/environments/read/exports/30-days-daily.csv?asOf=2026-03-02';
    const answer = await app.call(path, { token: key.token, headers: { 'x-request-id': 'r-1' } });
    t.equal(answer.status, 200);
    const line = await nextLine();
    t.match(line, {
      actor: { kind: 'api-key', id: key.id },
      environmentId: 'read',
      targetId: '30-days-daily',
      callerRequestId: 'r-1',
      details: { format: 'csv', compression: 'none', asOf: '2026-03-02', outcome: 'complete' },
    });
    t.ok(Number(line?.details['bytes']) >= answer.body.length);

    await app.call('/v1/environments/read/exports/today.csv.gz');
    t.match(await nextLine(), {
      actor: { kind: 'operator', id: null },
      targetId: 'today',
      details: { compression: 'gzip', asOf: null, outcome: 'complete' },
    });
  });

  t.test('writes no audit entry for HEAD, 304, 412 and rejected requests', async t => {
    const path = '/v1/environments/read/exports/today.csv';
    const { headers } = await app.call(path, { method: 'HEAD' });
    const { etag = '' } = headers;
    t.equal((await app.call(path, { headers: { 'if-none-match': etag } })).status, 304);
    t.equal((await app.call(path, { headers: { 'if-match': '"x"' } })).status, 412);
    t.equal((await app.call(`${path}?asOf=2026-03-03`)).status, 400);
    t.equal((await app.call('/v1/environments/absent/exports/today.csv')).status, 404);
    await app.call(path);
    await nextLine();
  });

  t.test('writes the outcome of an aborted and of a failed download', async t => {
    const response = await open(`${app.origin}/v1/environments/wide/exports/today.csv`, {
      headers: { authorization: `Bearer ${(await app.makeKey('wide', ['exports:read'])).token}` },
    });
    response.on('error', () => {});
    response.destroy();
    t.match(await nextLine('wide'), { details: { outcome: 'reader_gone' } });

    await pool.query(
      `update snapshots set row_count = 99, version = gen_random_uuid() where environment_id = 'wide'`,
    );
    await app.download('wide', 'today').catch(() => {});
    t.match(await nextLine('wide'), { details: { outcome: 'failed' } });
  });

  t.test('writes an audit entry for a link and one for each download by it', async t => {
    for (const [token, actor] of [
      [key.token, { kind: 'api-key', id: key.id }],
      [undefined, { kind: 'operator', id: null }],
    ] as const) {
      const made = await app.call('/v1/environments/read/download-links', {
        method: 'POST',
        json: { aggregation: 'today', asOf: '2026-03-01', expiresInSeconds: 60 },
        ...(token && { token }),
      });
      registerSecret(made.json.url.split('/').at(-1));
      const [line] = await linesOf('read', 'download_link.created');
      t.match(line, {
        actor,
        details: {
          aggregation: 'today',
          format: 'csv',
          compression: 'none',
          asOf: '2026-03-01',
          expiresAt: made.json.expiresAt,
        },
      });
      t.equal((await ask(made.json.url, { method: 'HEAD' })).status, 200);
      t.equal((await ask(made.json.url)).status, 200);
      t.match(await nextLine(), {
        actor,
        targetId: 'today',
        details: { linkId: line?.targetId, outcome: 'complete' },
      });
    }
  });

  t.test('logs an audit entry that cannot be written and completes the download', async t => {
    await pool.query('alter table audit_log add constraint closed check (false) not valid');
    t.equal((await app.download('read', 'today')).status, 200);
    await waitFor('a line in the log', () =>
      app.log.some(line => line['msg'] === 'audit line of a download lost'),
    );
    await pool.query('alter table audit_log drop constraint closed');
    t.equal((await app.download('read', 'today')).status, 200);
    t.match(await nextLine(), { details: { outcome: 'complete' } });
  });

  t.test('waits for the audit entry at shutdown, not in the download', async t => {
    const other = await startApp(t, { databaseUrl: app.database.url });
    const locker = await pool.connect();
    await locker.query('begin; lock table audit_log in access exclusive mode');
    const answer = await other.download('read', 'today');
    t.equal(answer.status, 200);
    const closed = other.app.close();
    await locker.query('commit');
    locker.release();
    await closed;
    t.equal(await countLines(), seen + 1);
  });
});

/** Audit log entries of export configs and runs. */
t.test('records changes of export configs', async t => {
  t.test(
    'writes one audit line without secrets for each config change and each manual run',
    needsS3,
    async t => {
      await app.putEnvironment('exporting');
      const key = await app.makeKey('exporting', ['exports:write']);
      await app.ingest('exporting', '2026-03-01', ingestBody([adoptionRow()]));
      let seen = 0;
      const fresh = async () => {
        const { rows } = await pool.query(
          `select id, actor_kind, actor_id, action, target_id, details from audit_log where id > $1 and environment_id = 'exporting' and action like 'export%' order by id`,
          [seen],
        );
        seen = Number(rows.at(-1)?.id ?? seen);
        return rows.map(({ id: _id, ...line }) => line);
      };
      const configs = '/v1/environments/exporting/export-configs';
      const send = (path: string, method: string, json?: unknown) =>
        app.call(`${configs}${path}`, {
          method,
          token: key.token,
          ...(json === undefined ? {} : { json }),
        });
      const by = { actor_kind: 'api-key', actor_id: key.id };

      const wrong = {
        ...configBody('full'),
        secretAccessKey: credentialsOf('readOnly').secretAccessKey,
      };
      t.equal((await send('', 'POST', wrong)).status, 422);
      t.strictSame(await fresh(), [], 'a rejected request is not audited');

      const body = configBody('full');
      const { provider, bucket, region, key: folder, endpoint, accessKeyId } = body;
      const place = { provider, bucket, region, key: folder, endpoint };
      const destination = { ...place, encryption: null, accessKeyId };
      const { id } = (await send('', 'POST', body)).json;
      t.strictSame(await fresh(), [
        {
          ...by,
          action: 'export_config.created',
          target_id: id,
          details: {
            enabled: true,
            schedule: 'daily',
            destination,
          },
        },
      ]);
      const patch = async (json: object) => {
        t.equal((await send(`/${id}`, 'PATCH', json)).status, 200);
        return (await fresh()).map(({ action, target_id, details }) => {
          t.equal(target_id, id);
          return { action, ...details };
        });
      };
      t.strictSame(await patch({}), []);
      t.strictSame(
        await patch({ name: 'Nightly', schedule: 'daily' }),
        [],
        'unchanged values are not audited',
      );
      t.strictSame(
        await patch({ name: 'Weekly', schedule: 'weekly', manifest: true, key: 'elsewhere' }),
        [
          {
            action: 'export_config.updated',
            changed: ['schedule', 'name', 'manifest', 'key'],
            destination: { ...destination, key: 'elsewhere' },
          },
        ],
      );
      t.strictSame(await patch(credentialsOf('full')), [
        {
          action: 'export_config.updated',
          changed: ['secretAccessKey'],
          destination: { ...destination, key: 'elsewhere' },
        },
      ]);
      t.strictSame(await patch({ enabled: false }), [
        { action: 'export_config.turned_off', changed: ['enabled'] },
      ]);
      t.equal((await send(`/${id}`, 'PATCH', { schedule: 'hourly' })).status, 400);
      t.strictSame(await fresh(), []);

      t.equal((await send(`/${id}/runs`, 'POST', { snapshotDate: '2026-01-01' })).status, 404);
      t.strictSame(await fresh(), []);
      const run = (await send(`/${id}/runs`, 'POST')).json;
      t.strictSame(await fresh(), [
        {
          ...by,
          action: 'export_run.started',
          target_id: run.id,
          details: { configId: id, snapshotDate: '2026-03-01' },
        },
      ]);
      t.equal((await send(`/${id}/runs`, 'POST')).status, 409);
      t.strictSame(await fresh(), []);

      t.equal((await send(`/${id}`, 'DELETE')).status, 204);
      t.strictSame(await fresh(), [
        { ...by, action: 'export_config.deleted', target_id: id, details: {} },
      ]);
      t.equal((await send(`/${id}`, 'DELETE')).status, 404);
      t.strictSame(await fresh(), []);

      const whole = JSON.stringify(
        (await app.call('/v1/audit-log?environmentId=exporting&limit=100')).json,
      );
      for (const user of Object.values(s3Server().users)) {
        t.notOk(whole.includes(user.secretAccessKey));
      }
      t.notOk(whole.includes(key.token.split('_')[2] ?? ''));
    },
  );
});
