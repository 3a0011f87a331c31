import t from 'tap';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startTestApp } from '../helpers/app.ts';
import { fillSnapshot } from '../helpers/fill-snapshot.ts';
import { registerSecret } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { startWebhookReceiver } from '../helpers/webhook-receiver.ts';

const app = await startTestApp(t, { env: { S3_ENDPOINT_ALLOWLIST: '127.0.0.1' } });
const { pool } = app.database;

t.test('creates, reads and updates an environment', async t => {
  const path = '/v1/environments/acme';
  const created = await app.call(path, { method: 'PUT', json: { name: 'Acme', plan: 'free' } });
  t.equal(created.status, 201);
  t.match(created.json, { id: 'acme', name: 'Acme', plan: 'free' });
  t.strictSame((await app.call(path)).json, created.json);
  const updated = await app.call(path, { method: 'PUT', json: { name: 'ACME', plan: 'pro' } });
  t.equal(updated.status, 200);
  t.match(updated.json, { name: 'ACME', plan: 'pro', createdAt: created.json.createdAt });
  const key = await app.makeKey('acme', ['snapshots:write']);
  t.strictSame((await app.call(path, { token: key.token })).json, updated.json);
});

t.test(
  'creates an environment once under concurrent requests and updates it otherwise',
  async t => {
    const statuses = await Promise.all(
      Array.from({ length: 6 }, async () => {
        const answer = await app.call('/v1/environments/race', {
          method: 'PUT',
          json: { name: 'x', plan: 'pro' },
        });
        return answer.status;
      }),
    );
    t.strictSame(statuses.sort(), [200, 200, 200, 200, 200, 201]);
  },
);

t.test('refuses invalid ids and bodies', async t => {
  const json = { name: 'x', plan: 'pro' };
  for (const id of ['-a', '_a', 'a.b', 'a%20b', 'x'.repeat(65), '%C3%A9', 'a%00', 'a%2Fb']) {
    const answer = await app.call(`/v1/environments/${id}`, { method: 'PUT', json });
    t.equal(answer.status, 400, id);
    t.equal(answer.json.code, 'validation_failed', id);
  }
  for (const body of [
    {},
    { name: 'x' },
    { plan: 'pro' },
    { ...json, plan: 'Pro' },
    { ...json, id: 'x' },
  ]) {
    const answer = await app.call('/v1/environments/y', { method: 'PUT', json: body });
    t.equal(answer.status, 400, JSON.stringify(body));
    t.ok(answer.json.errors.length > 0);
  }
  t.equal((await app.call('/v1/environments/y')).status, 404);
});

t.test('lists environments in pages, ordered by id', async t => {
  const own = ['b', 'B', '9', '10', 'a_', 'a-'];
  for (const id of own) await app.putEnvironment(id);
  const first = (await app.call('/v1/environments?limit=5')).json;
  const second = (await app.call(`/v1/environments?limit=100&cursor=${first.nextCursor}`)).json;
  const ids = [...first.items, ...second.items].map((item: { id: string }) => item.id);
  t.strictSame(ids, [...new Set(ids)].sort(), 'each environment once');
  t.strictSame(
    ids.filter(id => own.includes(id)),
    ['10', '9', 'B', 'a-', 'a_', 'b'],
  );
  t.equal(second.nextCursor, null);
});

t.test('deletes an environment with its data and nothing else', async t => {
  for (const id of ['doomed', 'spared']) {
    await app.putEnvironment(id);
    for (const date of ['2026-02-27', '2026-02-28', '2026-03-01']) {
      t.equal((await app.ingest(id, date, ingestBody([adoptionRow()]))).status, 201);
    }
    await app.makeKey(id, ['exports:read']);
  }
  t.equal((await app.call('/v1/environments/doomed', { method: 'DELETE' })).status, 204);
  t.equal((await app.call('/v1/environments/doomed', { method: 'DELETE' })).status, 404);
  for (const table of ['snapshot_rows', 'snapshots', 'api_keys']) {
    const { rows } = await pool.query(
      `select environment_id, count(*)::int as count from ${table} where environment_id in ('doomed', 'spared') group by 1`,
    );
    t.strictSame(rows, [{ environment_id: 'spared', count: table === 'api_keys' ? 1 : 3 }], table);
  }
  t.equal((await app.download('spared', 'today')).headers['x-total-rows'], '1');
  // A new environment with the same id starts empty.
  await app.putEnvironment('doomed');
  t.strictSame((await app.call('/v1/environments/doomed/snapshots')).json.items, []);
});

t.test('deletes each day of an environment in a transaction of its own', async t => {
  await app.putEnvironment('long');
  const days = ['2025-03-01', '2025-03-02', '2025-03-03'];
  for (const day of days) await fillSnapshot(pool, 'long', day, 1);
  await pool.query(
    `insert into rendered_snapshots (environment_id, version, snapshot_date, plain_bytes, deflated_bytes,
       chunk_count, crc32, renderer)
     select environment_id, version, snapshot_date, 1, 1, 1, 0, 'test' from snapshots where environment_id = 'long'`,
  );
  const locker = await pool.connect();
  await locker.query('begin; lock table snapshot_rows_20250303 in share mode');
  const deleting = app.call('/v1/environments/long', { method: 'DELETE' });
  const waiting = await waitFor('the wait for the last day', async () => {
    const { rows } = await pool.query(
      `select (select count(*)::int from pg_locks as held
         where held.pid = waiting.pid and held.granted
           and held.relation::regclass::text ~ '^snapshot_rows_[0-9]{8}$') as tables
       from pg_locks as waiting
       where not waiting.granted and waiting.relation = 'snapshot_rows_20250303'::regclass`,
    );
    return rows[0];
  });
  await locker.query('commit');
  locker.release();
  t.equal(waiting.tables, 0, 'the days before are not locked any more');
  const answer = await deleting;
  t.equal(answer.status, 204, answer.text);
  for (const table of ['snapshot_rows', 'snapshots', 'rendered_snapshots']) {
    const { rowCount } = await pool.query(`select from ${table} where environment_id = 'long'`);
    t.equal(rowCount, 0, table);
  }
});

/**
 * Tests how a webhook is set and tested, and how its secret is rotated. The tests of exports cover
 * its messages.
 */
t.test('configures the failure webhook', async t => {
  const put = async (id: string, failureWebhook?: unknown) => {
    const json = {
      name: id,
      plan: 'enterprise',
      ...(failureWebhook === undefined ? {} : { failureWebhook }),
    };
    const answer = await app.call(`/v1/environments/${id}`, { method: 'PUT', json });
    const secret = answer.json.failureWebhookSecret;
    if (secret !== undefined) registerSecret(secret);
    return answer;
  };
  const post = async (id: string, what: 'test' | 'rotate-secret') => {
    const answer = await app.call(`/v1/environments/${id}/failure-webhook/${what}`, {
      method: 'POST',
    });
    if (answer.status === 201) registerSecret(answer.json.failureWebhookSecret);
    return answer;
  };
  const url = 'https://hooks.example.com/a?b=c';

  t.test('sets, keeps, moves and removes a webhook and shows its secret once', async t => {
    const plain = await put('hooked');
    t.equal(plain.json.failureWebhook, null);
    t.notOk('failureWebhookSecret' in plain.json);
    const first = await put('hooked', url);
    t.equal(first.json.failureWebhook, url);
    t.ok(/^whsec_[A-Za-z0-9+/]{43}=$/.test(first.json.failureWebhookSecret));
    for (const again of [undefined, url]) {
      const { status, json } = await put('hooked', again);
      t.equal(status, 200);
      t.equal(json.failureWebhook, url);
      t.notOk('failureWebhookSecret' in json, 'the secret stays the same');
    }
    await put('hooked', 'https://hooks.example.com/other');
    const { json: read } = await app.call('/v1/environments/hooked');
    t.strictSame(Object.keys(read), [
      'id',
      'name',
      'plan',
      'failureWebhook',
      'webhookEvents',
      'externalId',
      'createdAt',
      'updatedAt',
    ]);
    t.equal(read.failureWebhook, 'https://hooks.example.com/other');
    const { items } = (await app.call('/v1/environments?limit=100')).json;
    t.strictSame(
      items.find(({ id }: { id: string }) => id === 'hooked'),
      read,
    );
    const key = await app.makeKey('hooked', ['exports:read']);
    t.strictSame(
      (await app.call('/v1/environments/hooked', { token: key.token })).json,
      { ...read, failureWebhook: null, webhookEvents: null },
      'a key does not see the URL, which may contain a secret',
    );

    t.equal((await put('hooked', null)).json.failureWebhook, null);
    t.equal((await put('hooked', null)).status, 200);
    t.equal((await app.call('/v1/environments/hooked')).json.failureWebhook, null);
    const { rowCount } = await pool.query(
      `select from failure_webhooks where environment_id = 'hooked'`,
    );
    t.equal(rowCount, 0);
    const anew = await put('hooked', url);
    t.ok(anew.json.failureWebhookSecret !== first.json.failureWebhookSecret, 'another secret');
    t.equal((await put('new', url)).status, 201, 'together with a new environment');
  });

  t.test('gives a webhook with another URL another secret', async t => {
    const first = await startWebhookReceiver(t);
    const second = await startWebhookReceiver(t);
    const before = (await put('moved', first.url)).json.failureWebhookSecret;
    const answer = await put('moved', second.url);
    t.equal(answer.status, 200);
    const after = answer.json.failureWebhookSecret;
    t.match(after, /^whsec_/);
    t.not(after, before);
    t.notOk(
      'failureWebhookSecret' in (await put('moved', second.url)).json,
      'the same URL keeps it',
    );
    await post('moved', 'test');
    const [received] = second.received;
    t.equal(received?.isSignedWith(after), true);
    t.equal(received?.isSignedWith(before), false);
    t.equal(first.received.length, 0);
    const { rows } = await pool.query(
      `select action from audit_log where environment_id = 'moved' order by id`,
    );
    t.strictSame(
      rows.map(({ action }) => action),
      ['environment.created', 'failure_webhook.created', 'failure_webhook.updated'],
    );
  });

  t.test('stores the secret sealed and deletes it with its environment', async t => {
    await put('sealed', url);
    const { rows } = await pool.query(
      `select sealed_secret from failure_webhooks where environment_id = 'sealed'`,
    );
    t.match(rows[0].sealed_secret, /^v1\.2026a\./);
    await app.call('/v1/environments/sealed', { method: 'DELETE' });
    const left = await pool.query(`select from failure_webhooks where environment_id = 'sealed'`);
    t.equal(left.rowCount, 0);
  });

  t.test('creates one secret under concurrent requests and shows it once', async t => {
    const answers = await Promise.all(
      Array.from({ length: 4 }, () => put('race-of-webhooks', url)),
    );
    t.equal(answers.filter(({ json }) => 'failureWebhookSecret' in json).length, 1);
    for (const { json } of answers) t.equal(json.failureWebhook, url);
  });

  t.test('refuses an invalid webhook URL and keeps the current one', async t => {
    await put('kept', url);
    for (const bad of [
      '',
      'hooks.example.com',
      'http://hooks.example.com/',
      'https://10.0.0.1/',
      'https://169.254.169.254/latest/meta-data',
      'https://[::1]/',
      'https://2130706434/',
      'https://user:x@hooks.example.com/',
      'https://hooks.example.com/#x',
      'https://hooks.example.com/\u0000',
      `https://hooks.example.com/${'x'.repeat(2_048)}`,
      7,
      true,
      {},
      [url],
    ]) {
      const { status, json } = await put('kept', bad);
      t.equal(status, 400, JSON.stringify(bad));
      t.match(json, { code: 'validation_failed', errors: [{ path: '/failureWebhook' }] });
    }
    t.equal((await put('unmade', 'https://10.0.0.1/')).status, 400);
    t.equal((await app.call('/v1/environments/kept')).json.failureWebhook, url);
    t.equal((await app.call('/v1/environments/unmade')).status, 404);
  });

  t.test('sets and removes a webhook with a key of the environment', async t => {
    await put('alone');
    const { token } = await app.makeKey('alone', ['exports:write']);
    const path = '/v1/environments/alone/failure-webhook';
    const set = async (json: object) => {
      const answer = await app.call(path, { method: 'PUT', json, token });
      if ('failureWebhookSecret' in answer.json) registerSecret(answer.json.failureWebhookSecret);
      return answer;
    };
    const remove = () => app.call(path, { method: 'DELETE', token });
    const usual = ['export.failed', 'export.recovered', 'export.turned_off'];

    t.equal((await remove()).json.code, 'not_found');
    const made = await set({ url: 'https://HOOKS.example.com/a?b=c' });
    t.equal(made.status, 201);
    t.match(made.json, { url, events: usual, failureWebhookSecret: /^whsec_/ });
    const selected = ['export.succeeded', 'export.failed'];
    const changed = await set({ url, events: ['export.failed', 'export.succeeded'] });
    t.equal(changed.status, 200);
    t.strictSame(changed.json, { url, events: selected });
    t.strictSame((await set({ url, events: selected })).json, { url, events: selected });
    t.match((await app.call('/v1/environments/alone')).json, {
      name: 'alone',
      plan: 'enterprise',
      failureWebhook: url,
      webhookEvents: selected,
    });
    const moved = await set({ url: 'https://hooks.example.com/b', events: selected });
    t.equal(moved.status, 200);
    t.not(moved.json.failureWebhookSecret, made.json.failureWebhookSecret);
    t.strictSame((await set({ url: moved.json.url })).json, { url: moved.json.url, events: usual });
    t.equal((await remove()).status, 204);
    t.equal((await remove()).status, 404);

    const { rows } = await pool.query(
      `select actor_kind, action, details from audit_log
     where environment_id = 'alone' and action like 'failure_webhook.%' order by id`,
    );
    t.strictSame(
      rows.map(({ actor_kind, action, details }) => [actor_kind, action.slice(16), details]),
      [
        ['api-key', 'created', { events: usual }],
        ['api-key', 'updated', { changed: ['events'], events: selected }],
        ['api-key', 'updated', { changed: ['url'], events: selected }],
        ['api-key', 'updated', { changed: ['events'], events: usual }],
        ['api-key', 'deleted', {}],
      ],
    );
  });

  t.test('refuses an invalid webhook or selection of events', async t => {
    await put('checked');
    const call = (json: object, path = '') =>
      app.call(`/v1/environments/checked${path}`, { method: 'PUT', json });
    for (const [json, at] of [
      [{ url: 'https://10.0.0.1/' }, '/url'],
      [{ url: null }, '/url'],
      [{}, '/url'],
      [{ url, events: [] }, '/events'],
      [{ url, events: ['export.failed', 'export.failed'] }, '/events'],
      [{ url, events: ['webhook.test'] }, '/events/0'],
      [{ url, events: null }, '/events'],
    ] as const) {
      const { status, json: answer } = await call(json, '/failure-webhook');
      t.equal(status, 400, JSON.stringify(json));
      t.equal(answer.errors[0].path, at, JSON.stringify(json));
    }
    const environment = { name: 'checked', plan: 'pro' };
    for (const more of [{}, { failureWebhook: null }]) {
      const { json } = await call({ ...environment, ...more, webhookEvents: ['export.failed'] });
      t.match(json, { code: 'validation_failed', errors: [{ path: '/webhookEvents' }] });
    }
    t.match((await app.call('/v1/environments/checked')).json, {
      plan: 'enterprise',
      failureWebhook: null,
      webhookEvents: null,
    });
  });

  t.test('keeps the selection of events while an environment is updated without it', async t => {
    const save = async (more: object) => {
      const json = { name: 'select', plan: 'enterprise', ...more };
      const answer = await app.call('/v1/environments/select', { method: 'PUT', json });
      if ('failureWebhookSecret' in answer.json) registerSecret(answer.json.failureWebhookSecret);
      return answer.json;
    };
    const webhookEvents = ['export.succeeded'];
    t.match(await save({ failureWebhook: url, webhookEvents }), { webhookEvents });
    t.strictSame((await save({})).webhookEvents, webhookEvents);
    const kept = await save({ failureWebhook: 'https://hooks.example.com/c' });
    t.match(kept, { webhookEvents, failureWebhookSecret: /^whsec_/ });
    const changed = await save({ webhookEvents: ['export.turned_off'] });
    t.strictSame(changed.webhookEvents, ['export.turned_off']);
    t.notOk('failureWebhookSecret' in changed, 'other events do not change the secret');
    await save({ failureWebhook: null });
    t.strictSame((await save({ failureWebhook: url })).webhookEvents, [
      'export.failed',
      'export.recovered',
      'export.turned_off',
    ]);
  });

  t.test('limits how many tests of webhooks are in progress', async t => {
    await put('slow', url);
    const { checkPlaces } = app.dependencies;
    const releases = [await checkPlaces.acquire('slow'), await checkPlaces.acquire('slow')];
    const answer = await post('slow', 'test');
    t.match(answer.json, { status: 429, code: 'rate_limited' });
    t.ok(answer.headers['retry-after']);
    for (const release of releases) release();
    t.equal((await post('slow', 'test')).status, 200);
    t.equal(checkPlaces.active, 0);
  });

  t.test('sends a test message and signs with the rotated secret', async t => {
    const receiver = await startWebhookReceiver(t);
    const { json } = await put('tried', receiver.url);
    t.strictSame((await post('tried', 'test')).json, { delivered: true, status: 204, error: null });
    const [first] = receiver.received;
    t.strictSame(first?.json, {
      type: 'webhook.test',
      timestamp: '2026-03-02T10:00:00.000Z',
      data: { environmentId: 'tried' },
    });
    t.equal(first?.isSignedWith(json.failureWebhookSecret), true);

    const rotated = await post('tried', 'rotate-secret');
    t.equal(rotated.status, 201);
    t.strictSame(Object.keys(rotated.json), ['failureWebhookSecret']);
    const secret = rotated.json.failureWebhookSecret;
    receiver.answer(response => response.writeHead(500).end());
    const refused = await post('tried', 'test');
    t.equal(refused.status, 200);
    t.match(refused.json, { delivered: false, status: 500, error: { code: 'not_accepted' } });
    const [, second] = receiver.received;
    t.equal(second?.isSignedWith(secret), true);
    t.equal(
      second?.isSignedWith(json.failureWebhookSecret),
      false,
      'the old secret no longer signs',
    );
    t.not(second?.headers['webhook-id'], first?.headers['webhook-id']);

    await receiver.close();
    t.match((await post('tried', 'test')).json, {
      delivered: false,
      status: null,
      error: { code: 'endpoint_unreachable' },
    });
  });

  t.test('answers not_found for a test or rotation without a webhook', async t => {
    await put('without');
    for (const what of ['test', 'rotate-secret'] as const) {
      for (const id of ['without', 'no-such']) {
        const answer = await post(id, what);
        t.match(answer.json, { status: 404, code: 'not_found' });
      }
    }
  });

  t.test('sends nothing and logs the reason if the secret does not open', async t => {
    await put('broken', url);
    await pool.query(
      `update failure_webhooks set sealed_secret = 'v1.lost.' || repeat('A', 40) where environment_id = 'broken'`,
    );
    const answer = await post('broken', 'test');
    t.match(answer.json, { delivered: false, status: null, error: { code: 'secret_unreadable' } });
    t.match(
      app.log.filter(({ msg }) => msg === 'webhook secret unreadable'),
      [{ level: 50, environmentId: 'broken' }],
    );
    t.notMatch(answer.text, 'lost');
    t.equal((await post('broken', 'rotate-secret')).status, 201, 'a rotation creates a new secret');
  });
});
