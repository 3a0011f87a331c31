import fs from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import { webhookQueue } from '../../src/db/job-queue.ts';
import { startApp, startTestApp, testNow } from '../helpers/app.ts';
import { startWithRuns } from '../helpers/ended-runs.ts';
import { startExportWorker } from '../helpers/export-configs.ts';
import { hastenRetries } from '../helpers/hasten-retries.ts';
import { registerSecret } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { startWebhookReceiver } from '../helpers/webhook-receiver.ts';

/** Webhooks from the event to the receiver, delivered by real workers. */

t.setTimeout(600_000);

const app = await startTestApp(t, { env: { S3_ENDPOINT_ALLOWLIST: '127.0.0.1' } });
const { pool } = app.database;
let worker: ReturnType<typeof startExportWorker> | null = null;

/** Starts the worker of all tests, or makes it look for jobs. */
function wake(): void {
  worker ??= startExportWorker(t, app);
  worker.wake();
}

/** Stops the worker of earlier tests, so that jobs wait until `wake`. */
async function stopWorker(): Promise<void> {
  await worker?.stop();
  worker = null;
}

async function start(t: Test, configs = ['a', 'b']) {
  // Start the receiver first, so that it is closed last.
  const receiver = await startWebhookReceiver(t);
  const jobs = async (columns = 'state, retry_count'): Promise<Record<string, unknown>[]> =>
    (
      await pool.query(
        `select ${columns} from pgboss.job where name = 'deliver-webhook' order by created_on`,
      )
    ).rows;
  // The worker may still record the last delivery of the test before.
  await waitFor('the end of all earlier deliveries', jobs, {
    isWanted: found => found.every(job => job['state'] !== 'active'),
  });
  app.setNow(testNow);
  const started = await startWithRuns(app, {
    url: receiver.url,
    configs,
    // A date in the future: the tests start all runs themselves and no slot becomes due.
    since: '2027-01-01T00:00:00Z',
  });
  const { secret } = started;
  const failDay = async (day: number) => {
    await started.failDay(day);
    wake();
  };
  const succeedDay = async (day: number) => {
    await started.succeedDay(day);
    wake();
  };
  const ended = (state: string) =>
    waitFor(`deliveries in state ${state}`, jobs, {
      isWanted: found => found.length > 0 && found.every(job => job['state'] === state),
    });
  /** Skips the delay before the next try of every waiting delivery. */
  const hasten = async () => {
    await hastenRetries(pool, webhookQueue);
    wake();
  };
  const isSigned = () => receiver.received.every(message => message.isSignedWith(secret ?? ''));
  const linesBefore = app.log.length;
  /** Returns the log lines about webhooks without the fields that differ in each run. */
  const logged = () =>
    app.log
      .slice(linesBefore)
      .filter(line => String(line['msg']).startsWith('webhook '))
      .map(({ msg, status, code, level }) => ({ msg, status, code, level }));
  return { ...started, failDay, succeedDay, receiver, jobs, ended, hasten, isSigned, logged };
}

t.test('delivers each message once with two workers', async t => {
  await stopWorker();
  const configs = Array.from({ length: 12 }, (_, index) => `c${index}`);
  const { receiver, begin, fail, ended, isSigned } = await start(t, configs);
  const other = await startApp(t, {
    databaseUrl: app.config.databaseUrl,
    env: { S3_ENDPOINT_ALLOWLIST: '127.0.0.1' },
  });
  for (const id of configs) await fail(await begin(null, id), '2026-03-02T01:00:00Z');
  t.equal(receiver.received.length, 0, 'only workers deliver events');
  wake();
  const second = startExportWorker(t, other);
  receiver.answer(response => {
    response.writeHead(204).end();
    wake();
    second.wake();
  });
  await receiver.count(12, 60_000);
  await ended('completed');
  t.equal(receiver.received.length, 12);
  t.equal(new Set(receiver.received.map(({ headers }) => headers['webhook-id'])).size, 12);
  t.ok(isSigned());
});

t.test('delivers each event once, signed and complete', async t => {
  const { receiver, failDay, succeedDay, ended, isSigned, logged } = await start(t);
  await failDay(2);
  await receiver.count(1);
  await succeedDay(3);
  const [failed, recovered] = await receiver.count(2);
  t.strictSame(Object.keys(failed?.json), ['type', 'timestamp', 'data']);
  t.match(failed?.json, {
    type: 'export.failed',
    timestamp: '2026-03-02T01:00:00.000Z',
    data: { configName: 'Nightly', error: { code: 'write_denied' }, consecutiveFailures: 1 },
  });
  t.match(recovered?.json, {
    type: 'export.recovered',
    data: { error: null, consecutiveFailures: 0 },
  });
  t.ok(isSigned());
  await ended('completed');
  const { rows } = await pool.query('select id from webhook_events order by created_at');
  t.strictSame(
    receiver.received.map(({ headers }) => headers['webhook-id']),
    rows.map(({ id }) => id),
  );
  t.match(logged()[0], { msg: 'webhook event delivered', status: 204, level: 30 });
});

t.test('retries a failed delivery with the same message until the receiver accepts it', async t => {
  const { receiver, failDay, jobs, ended, hasten, isSigned, logged } = await start(t);
  let tries = 0;
  receiver.answer(response => {
    tries += 1;
    switch (tries) {
      case 1:
        return response.socket?.resetAndDestroy();
      case 2:
        return response.writeHead(500).end();
      case 3:
        return response.writeHead(307, { location: receiver.url }).end();
      case 4:
        return response.socket?.end('no HTTP\r\n\r\n');
      default:
        return response.writeHead(200).end('thank you');
    }
  });
  await failDay(2);
  for (let count = 1; count <= 5; count += 1) {
    app.setNow(`2026-03-02T1${count}:00:00.000Z`);
    await receiver.count(count);
    if (count === 5) break;
    await waitFor(`the failure of try ${count}`, jobs, {
      isWanted: ([job]) => job?.['state'] === 'retry' && Number(job['retry_count']) === count - 1,
    });
    await hasten();
  }
  await ended('completed');
  t.equal(receiver.received.length, 5);
  t.equal(new Set(receiver.received.map(({ body }) => body)).size, 1);
  t.equal(new Set(receiver.received.map(({ headers }) => headers['webhook-id'])).size, 1);
  t.equal(new Set(receiver.received.map(({ headers }) => headers['webhook-timestamp'])).size, 5);
  t.ok(isSigned());
  t.strictSame(
    logged().map(({ status, code }) => code ?? status),
    ['endpoint_unreachable', 'not_accepted', 'not_accepted', 'not_http', 200],
  );
});

t.test('drops the event after a 410 and keeps the webhook', async t => {
  const { receiver, failDay, ended, logged } = await start(t);
  receiver.answer(response => response.writeHead(410).end());
  await failDay(2);
  await receiver.count(1);
  await ended('completed');
  t.match(logged(), [{ msg: 'webhook event dropped', status: 410, level: 40 }]);
  t.equal((await app.call('/v1/environments/acme')).json.failureWebhook, receiver.url);
  receiver.answer(response => response.writeHead(204).end());
  await failDay(3);
  await receiver.count(2);
});

t.test('ends a delivery after about a day of retries', async t => {
  const { receiver, failDay, jobs, ended, hasten, logged } = await start(t);
  const { rows } = await pool.query(
    `select retry_limit, retry_delay, retry_delay_max from pgboss.queue where name = 'deliver-webhook'`,
  );
  const { retry_limit: limit, retry_delay: delay, retry_delay_max: max } = rows[0];
  // Half of each delay is random.
  const pauses = Array.from({ length: limit }, (_, index) =>
    Math.min(max, delay * 2 ** index * 1.5),
  );
  const hours = pauses.reduce((sum, pause) => sum + pause, 0) / 3_600;
  t.ok(hours > 20 && hours < 28, `${hours.toFixed(1)} hours`);

  receiver.answer(response => response.writeHead(503).end());
  await failDay(2);
  await waitFor('a failed delivery', jobs, { isWanted: ([job]) => job?.['state'] === 'retry' });
  await pool.query(
    `update pgboss.job set retry_count = retry_limit - 1 where name = 'deliver-webhook'`,
  );
  await hasten();
  await ended('failed');
  t.equal(receiver.received.length, 2);
  t.match(logged()[1], { msg: 'webhook event given up', status: 503 });
});

t.test('handles changes while a delivery waits for its retry', async t => {
  /** Starts a delivery whose first try failed. */
  const waiting = async (t: Test) => {
    const started = await start(t);
    started.receiver.answer(response => response.writeHead(500).end());
    await started.failDay(2);
    await waitFor('a failed delivery', started.jobs, {
      isWanted: ([job]) => job?.['state'] === 'retry',
    });
    started.receiver.answer(response => response.writeHead(204).end());
    return started;
  };
  const path = '/v1/environments/acme';
  const expectNothing = async (
    t: Test,
    { hasten, ended, receiver }: Awaited<ReturnType<typeof waiting>>,
  ) => {
    await hasten();
    await ended('completed');
    t.equal(receiver.received.length, 1, 'no further request is sent');
  };

  await t.test('drops the event when the environment is deleted', async t => {
    const started = await waiting(t);
    t.equal((await app.call(path, { method: 'DELETE' })).status, 204);
    await expectNothing(t, started);
    for (const table of ['webhook_events', 'failure_webhooks']) {
      t.equal((await pool.query(`select from ${table}`)).rowCount, 0);
    }
  });

  await t.test('drops the event when the webhook is removed', async t => {
    const started = await waiting(t);
    await started.save(null);
    await expectNothing(t, started);
  });

  await t.test('drops the event when the config is deleted', async t => {
    const started = await waiting(t);
    t.equal((await app.call(`${path}/export-configs/a`, { method: 'DELETE' })).status, 204);
    await expectNothing(t, started);
  });

  await t.test('uses the new URL and secret when both are changed', async t => {
    const started = await waiting(t);
    const { secret, hasten, ended, receiver } = started;
    const other = await startWebhookReceiver(t);
    await started.save(other.url);
    const rotated = await app.call(`${path}/failure-webhook/rotate-secret`, { method: 'POST' });
    registerSecret(rotated.json.failureWebhookSecret);
    await hasten();
    const [message] = await other.count(1);
    await ended('completed');
    t.equal(message?.isSignedWith(rotated.json.failureWebhookSecret), true);
    t.equal(message?.isSignedWith(secret ?? ''), false);
    t.equal(message?.headers['webhook-id'], receiver.received[0]?.headers['webhook-id']);
    t.equal(receiver.received.length, 1);
  });
});

t.test('stores and logs URL and secret only where they belong', async t => {
  const { receiver, secret = '', failDay, jobs, ended, hasten } = await start(t);
  const sealed = (await pool.query('select sealed_secret from failure_webhooks')).rows[0]
    .sealed_secret;
  receiver.answer(response => response.writeHead(500).end());
  await failDay(2);
  await waitFor('a failed delivery', jobs, { isWanted: ([job]) => job?.['state'] === 'retry' });
  const tried = await app.call('/v1/environments/acme/failure-webhook/test', { method: 'POST' });
  const queued = await jobs('*');
  t.match(queued[0], { data: { environmentId: 'acme' }, output: { message: 'not_accepted' } });
  receiver.answer(response => response.writeHead(204).end());
  await hasten();
  await ended('completed');
  const answers = await Promise.all(
    ['', '/acme', '/acme/export-configs', '/acme/export-configs/a'].map(
      async at => (await app.call(`/v1/environments${at}`)).text,
    ),
  );
  const tables = await Promise.all(
    ['webhook_events', 'export_configs', 'export_runs', 'audit_log', 'environments'].map(
      async table => (await pool.query(`select * from ${table}`)).rows,
    ),
  );
  const rows = [queued, await jobs('*'), tables, app.log, tried.text];
  const everything = JSON.stringify([rows, answers]);
  const bare = String(secret).slice('whsec_'.length);
  // The search is meaningful only if it finds text that must be there.
  t.ok(everything.includes('export.failed') && everything.includes('webhook event delivered'));
  for (const [name, found] of [
    ['secret', everything.includes(bare)],
    ['sealed secret', everything.includes(sealed)],
    ['storage secret', everything.includes('secretAccessKey')],
    ['URL', JSON.stringify(rows).includes(receiver.url)],
  ] as const) {
    t.equal(found, false, name);
  }
});

t.test('does not delay other environments when one receiver is slow', async t => {
  const configs = Array.from({ length: 12 }, (_, index) => `c${index}`);
  const { receiver, begin, fail, jobs } = await start(t, configs);
  const quick = await startWebhookReceiver(t);
  const saved = await app.call('/v1/environments/quick', {
    method: 'PUT',
    json: { name: 'quick', plan: 'enterprise', failureWebhook: quick.url },
  });
  registerSecret(saved.json.failureWebhookSecret);
  receiver.answer(() => {});
  for (const id of configs) await fail(await begin(null, id), '2026-03-02T01:00:00Z');
  wake();
  await receiver.count(1);
  const tried = await app.call('/v1/environments/quick/failure-webhook/test', { method: 'POST' });
  t.equal(tried.json.delivered, true);
  await pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
       access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at)
     select 'quick', id, name, enabled, schedule, provider, bucket, region, key, endpoint, access_key_id, sealed_secret,
       compression, manifest, active_since, created_at, updated_at from export_configs where id = 'c0'`,
  );
  const startedAt = performance.now();
  await fail(await begin(null, 'c0', 'quick'), '2026-03-02T01:00:00Z');
  wake();
  await quick.count(2, 15_000);
  const tookMs = performance.now() - startedAt;
  t.ok(tookMs < 9_000, `${Math.round(tookMs)} ms`);
  const found = await jobs(`state, data ->> 'environmentId' as environment`);
  const active = found.filter(
    ({ state, environment }) => state === 'active' && environment === 'acme',
  );
  t.equal(active.length, 1, 'one delivery at a time');
  // Otherwise the shutdown of the test would wait for the active delivery.
  await app.call('/v1/environments/acme', { method: 'DELETE' });
  receiver.answer(response => response.writeHead(204).end());
  await receiver.close();
});

t.test('verifies a delivered message with the documented example code', async t => {
  const guide = fs.readFileSync(
    path.join(import.meta.dirname, '../../docs/automatic-exports.md'),
    'utf8',
  );
  const [, code = ''] = /^```js\n(.*?)^```$/ms.exec(guide) ?? [];
  t.ok(code.split('\n').length <= 13, 'the example has at most 13 lines');
  const { isOurs } = await import(`data:text/javascript,${encodeURIComponent(code)}`);
  const { receiver, secret } = await start(t);
  app.setNow(new Date().toISOString());
  await app.call('/v1/environments/acme/failure-webhook/test', { method: 'POST' });
  const [message] = receiver.received;
  const { headers = {}, body = '' } = message ?? {};
  t.equal(isOurs(secret, headers, body), true);
  t.equal(isOurs(secret, headers, `${body} `), false, 'another body');
  t.equal(isOurs(secret, { ...headers, 'webhook-id': 'x' }, body), false, 'another id');
  t.equal(isOurs('whsec_AAAA', headers, body), false, 'another secret');
  t.equal(
    isOurs(
      secret,
      { ...headers, 'webhook-signature': `v1,x ${headers['webhook-signature']}` },
      body,
    ),
    true,
  );
  t.equal(isOurs(secret, { ...headers, 'webhook-timestamp': undefined }, body), false);
  app.setNow(new Date(Date.now() - 600_000).toISOString());
  await app.call('/v1/environments/acme/failure-webhook/test', { method: 'POST' });
  const old = receiver.received[1];
  t.equal(isOurs(secret, old?.headers, old?.body), false, 'a message that is replayed later');
  t.equal(old?.isSignedWith(secret ?? ''), true);
});

t.test('logs an unreadable secret and delivers the event after the secret is rotated', async t => {
  const { receiver, failDay, jobs, ended, hasten, logged } = await start(t);
  await pool.query(`update failure_webhooks set sealed_secret = 'v1.lost.' || repeat('A', 40)`);
  await failDay(2);
  await waitFor('a failed delivery', jobs, { isWanted: ([job]) => job?.['state'] === 'retry' });
  t.match(logged(), [
    { msg: 'webhook secret unreadable', level: 50 },
    { msg: 'webhook event not delivered', code: 'secret_unreadable', level: 40 },
  ]);
  t.strictSame(receiver.received, [], 'no unsigned message is sent');
  const rotate = '/v1/environments/acme/failure-webhook/rotate-secret';
  const { json } = await app.call(rotate, { method: 'POST' });
  registerSecret(json.failureWebhookSecret);
  await hasten();
  await ended('completed');
  t.equal(receiver.received[0]?.isSignedWith(json.failureWebhookSecret), true);
});
