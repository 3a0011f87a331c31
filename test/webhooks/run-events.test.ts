import t from 'tap';
import { type WebhookJob, webhookQueue } from '../../src/db/job-queue.ts';
import { enqueueDue } from '../../src/export-runs/enqueue-due.sql.ts';
import * as outcomes from '../../src/export-runs/outcomes-repository.ts';
import { faultySlotsToTurnOff } from '../../src/export-runs/run-effects.sql.ts';
import { succeededEvent } from '../../src/webhooks/events.ts';
import { insertEvents } from '../../src/webhooks/insert-events.sql.ts';
import { startTestApp } from '../helpers/app.ts';
import { busy, denied, result, startWithRuns } from '../helpers/ended-runs.ts';
import { registerSecret } from '../helpers/secrets.ts';

t.setTimeout(600_000);

/**
 * Events that follow the end of a run, with a real database and a clock of the test. Nothing is
 * sent here.
 */

const app = await startTestApp(t);
const { pool } = app.database;
const { db, jobs } = app.dependencies;
const start = (options?: Parameters<typeof startWithRuns>[1]) => startWithRuns(app, options);

t.test('records a failure as an event and a job that contains only ids', async t => {
  const { begin, fail, events, webhookJobs } = await start();
  t.equal(await fail(await begin('2026-03-02T00:00:00Z'), '2026-03-02T00:01:02.003Z'), true);
  const [event, ...others] = await events();
  t.strictSame(others, []);
  t.strictSame(event.data, {
    environmentId: 'acme',
    configId: 'a',
    configName: 'Nightly',
    runId: 'run-1',
    slot: '2026-03-02T00:00:00.000Z',
    snapshotDate: '2026-03-01',
    error: denied,
    consecutiveFailures: 1,
  });
  const { rows } = await pool.query('select id from webhook_events');
  t.strictSame(await webhookJobs(), [
    { data: { environmentId: 'acme', eventId: rows[0].id }, group_id: 'acme' },
  ]);
});

t.test('records one failure per config and UTC day, even when the clock jumps', async t => {
  const { begin, fail, short, webhookJobs } = await start();
  const instants = [
    '2026-03-02T00:00:00.000Z',
    '2026-03-02T12:00:00.000Z',
    '2026-03-02T23:59:59.999Z',
    '2026-03-03T00:00:00.000Z',
    // The clock jumps one day ahead and back.
    '2026-03-04T01:00:00.000Z',
    '2026-03-03T01:00:00.000Z',
    '2026-03-04T02:00:00.000Z',
  ];
  for (const instant of instants) await fail(await begin(null), instant, busy);
  await fail(await begin(null, 'b'), '2026-03-02T12:00:00Z');
  t.strictSame(await short(), ['a failed 02', 'b failed 02', 'a failed 03', 'a failed 04']);
  t.equal((await webhookJobs()).length, 4);
});

t.test('records each failure once when several workers record concurrently', async t => {
  const { begin, fail, short, config, webhookJobs } = await start();
  const attempt = await begin('2026-03-02T00:00:00Z');
  const recorded = await Promise.all(
    Array.from({ length: 8 }, () => fail(attempt, '2026-03-02T00:01:00Z')),
  );
  t.equal(recorded.filter(Boolean).length, 1);
  t.match(await config(), { failures_in_a_row: 1, faulty_slots_in_a_row: 1 });

  // Lets two runs of one config end at the same time on one day. In production the second run waits
  // for the first.
  const { rows } = await pool.query(
    `select pg_get_indexdef('export_runs_unfinished'::regclass) as create`,
  );
  await pool.query('drop index export_runs_unfinished');
  for (let day = 3; day < 10; day += 1) {
    const now = new Date(Date.UTC(2026, 2, day, 1));
    const attempts = [];
    for (let index = 0; index < 4; index += 1) attempts.push(await begin(null));
    await Promise.all(
      attempts.map((racing, index) =>
        index === 3
          ? outcomes.recordSuccess(db, jobs, racing, result, now)
          : outcomes.recordFailure(db, jobs, racing, busy, now),
      ),
    );
  }
  const failed = (await short()).filter(event => event.includes('failed'));
  t.strictSame(failed, [...new Set(failed)], 'no event twice');
  t.equal(failed.length, 8);
  t.equal((await webhookJobs()).length, (await short()).length, 'one job for each event');
  await pool.query(rows[0].create);
});

t.test('records a recovery once, and only after a recorded failure', async t => {
  const { succeedDay, failDay, short, events, config, save, begin, fail, succeed } = await start();
  await succeedDay(1);
  t.strictSame(await short(), []);
  await failDay(2);
  await failDay(3);
  await succeedDay(4);
  await succeedDay(5);
  t.strictSame(await short(), ['a failed 02', 'a failed 03', 'a recovered 04']);
  t.match((await events())[2].data, { runId: 'run-4', error: null, consecutiveFailures: 0 });
  t.match((await events())[1].data, { consecutiveFailures: 2 });

  // The second failure of a day is not recorded. Its recovery is not recorded either.
  await fail(await begin(null), '2026-03-06T01:00:00Z');
  await succeed(await begin(null), '2026-03-06T02:00:00Z');
  await fail(await begin(null), '2026-03-06T03:00:00Z');
  await succeed(await begin(null), '2026-03-06T04:00:00Z');
  t.strictSame((await short()).slice(3), ['a failed 06', 'a recovered 06']);

  // The same applies to a failure that happened without a webhook.
  await save(null);
  await failDay(7);
  await save('https://hooks.example.com/');
  await succeedDay(8);
  t.equal((await short()).length, 5);
  t.match(await config(), { failures_in_a_row: 0, has_pushed_failure: false });
});

t.test('records a success only for webhooks that select it', async t => {
  const { begin, succeed, failDay, succeedDay, short, events, webhookJobs, save } = await start();
  const url = 'https://hooks.example.com/';
  await succeedDay(1);
  t.strictSame(await short(), []);
  await save(url, { webhookEvents: ['export.succeeded', 'export.recovered'] });
  await succeed(await begin('2026-03-02T00:00:00Z'), '2026-03-02T00:01:02.003Z');
  const [event] = await events();
  t.strictSame(event.data, {
    environmentId: 'acme',
    configId: 'a',
    configName: 'Nightly',
    runId: 'run-2',
    slot: '2026-03-02T00:00:00.000Z',
    snapshotDate: '2026-03-01',
    objectKey: 'k',
    manifestKey: '_manifest/k.json',
    bytes: 2,
    rowCount: 1,
    sha256: 'x',
  });
  t.equal((await webhookJobs()).length, 1);

  // A failure that is not selected is recorded without a job, so that its recovery is sent.
  await failDay(3);
  t.equal((await webhookJobs()).length, 1);
  await succeedDay(4);
  t.strictSame((await short()).slice(1), ['a failed 03', 'a recovered 04', 'a succeeded 04']);
  t.equal((await webhookJobs()).length, 3);
  await save(url, { webhookEvents: ['export.turned_off'] });
  await failDay(5);
  await succeedDay(6);
  t.strictSame((await short()).slice(4), ['a failed 05']);
  t.equal((await webhookJobs()).length, 3);
});

t.test('does not count cancelled runs and plan downgrades as failures', async t => {
  const { failDay, short, config, begin } = await start();
  for (let day = 1; day < faultySlotsToTurnOff; day += 1) await failDay(day);
  const before = await config();
  await failDay(10, { code: 'plan_upgrade_required', message: 'no' });
  await failDay(11, { code: 'cancelled', message: 'no' });
  await begin('2026-03-12T00:00:00Z');
  await app.call('/v1/environments/acme/export-configs/a', {
    method: 'PATCH',
    json: { enabled: false },
  });
  t.equal((await pool.query(`select from export_runs where state = 'failed'`)).rowCount, 12);
  t.strictSame({ ...(await config()), enabled: true, updated_at: before.updated_at }, before);
  t.equal((await short()).length, 9);
});

t.test('records nothing without a webhook, but still turns the config off', async t => {
  const { failDay, short, config, webhookJobs } = await start({ url: null });
  for (let day = 1; day <= faultySlotsToTurnOff; day += 1) await failDay(day);
  t.strictSame(await short(), []);
  t.strictSame(await webhookJobs(), []);
  t.match(await config(), { enabled: false, turned_off_at: new Date('2026-03-10T01:00:00.000Z') });
});

t.test('turns a config off after ten consecutive slots with configuration errors', async t => {
  t.equal(faultySlotsToTurnOff, 10);
  const { failDay, succeedDay, short, config, begin, fail, succeed } = await start();
  const faulty = async () => (await config()).faulty_slots_in_a_row;
  for (let day = 1; day <= 9; day += 1) await failDay(day);
  t.equal(await faulty(), 9);
  await failDay(10, busy);
  t.equal(await faulty(), 0, 'a failure of another kind resets the count');
  for (let day = 11; day <= 19; day += 1) await failDay(day);
  // Manual runs.
  await fail(await begin(null), '2026-03-19T02:00:00Z');
  await fail(await begin(null), '2026-03-19T03:00:00Z', busy);
  t.equal(await faulty(), 9, 'a failed manual run neither increments nor resets the count');
  await succeed(await begin(null), '2026-03-19T04:00:00Z');
  t.equal(await faulty(), 0, 'a successful manual run shows that the configuration is right');
  for (let day = 20; day <= 28; day += 1) await failDay(day);
  await succeedDay(29);
  t.equal(await faulty(), 0, 'a success');

  const before = await config();
  const codes = [
    'access_key_not_recognised',
    'secret_key_mismatch',
    'bucket_not_found',
    'wrong_region',
    'list_denied',
    'write_denied',
    'not_s3',
    'endpoint_not_allowed',
    'secret_key_mismatch',
    'write_denied',
  ];
  for (const [index, code] of codes.entries()) {
    t.equal((await config()).enabled, true);
    await failDay(30 + index, { code, message: `It was ${code}.` });
  }
  const off = await config();
  const { rows: lines } = await pool.query(
    `select actor_kind, actor_id, action, target_id, details from audit_log where action = 'export_config.turned_off'`,
  );
  t.strictSame(lines, [
    {
      actor_kind: 'system',
      actor_id: 'run-export',
      action: 'export_config.turned_off',
      target_id: 'a',
      details: { reason: 'too_many_failures', lastError: 'write_denied' },
    },
  ]);
  t.match(off, {
    enabled: false,
    turned_off_message: /^10 slots in a row .* It was write_denied\.$/,
  });
  t.ok(
    off.updated_at > before.updated_at,
    'a caller that read the config before cannot overwrite it',
  );
  const events = await short();
  t.strictSame(events.slice(-2), ['a failed 08', 'a turned_off 08']);
  t.equal(events.filter(event => event.includes('turned_off')).length, 1);

  const path = '/v1/environments/acme/export-configs/a';
  const { json } = await app.call(path);
  t.match(json, { enabled: false, status: { nextRunAt: null, status: 'failed' } });
  t.strictSame(json.status.turnedOff, {
    code: 'too_many_failures',
    message: off.turned_off_message,
    at: '2026-04-08T01:00:00.000Z',
  });
  t.strictSame((await app.call(`${path}/status`)).json, json.status);
  // Other changes keep the reason.
  const renamed = await app.call(path, {
    method: 'PATCH',
    json: { name: 'Renamed', enabled: false },
  });
  t.match(renamed.json, { name: 'Renamed', status: { turnedOff: json.status.turnedOff } });
  t.equal((await config('b')).enabled, true);
});

t.test(
  'does not turn a config on by a change that was read before the config was turned off',
  async t => {
    const { failDay, config } = await start();
    const { getConfig } = await import('../../src/export-configs/list-configs.sql.ts');
    const { replaceConfig } = await import('../../src/export-configs/repository.ts');
    for (let day = 1; day <= 9; day += 1) await failDay(day);
    const { config: read } = await getConfig(db, 'acme', 'a');
    await failDay(10);
    t.equal(
      await replaceConfig(db, { ...read, name: 'x', updatedAt: new Date() }, read, false),
      false,
    );
    t.equal((await config()).enabled, false);
  },
);

t.test('records a missing snapshot of a slot in the tick', async t => {
  const { failDay, short, events, config } = await start();
  for (let day = 1; day <= 9; day += 1) await failDay(day);
  const tick = (now: string) => enqueueDue(db, jobs, new Date(now));
  t.match(await tick('2026-03-10T00:00:05Z'), { added: 2, failed: 0 });
  t.match(await tick('2026-03-11T00:00:05Z'), { added: 2, failed: 2 });
  t.strictSame((await short()).slice(-2), ['a failed 11', 'b failed 11']);
  const [missed] = (await events()).slice(-2);
  t.match(missed.data, {
    slot: '2026-03-10T00:00:00.000Z',
    snapshotDate: '2026-03-09',
    error: { code: 'snapshot_missing' },
    consecutiveFailures: 10,
  });
  t.match(await config(), { enabled: true, faulty_slots_in_a_row: 0 });
});

t.test('skips a config that is locked by a change and handles it in the next tick', async t => {
  const { short } = await start();
  await enqueueDue(db, jobs, new Date('2026-03-10T00:00:05Z'));
  const client = await pool.connect();
  await client.query(`begin; select from export_configs where id = 'a' for update`);
  t.match(await enqueueDue(db, jobs, new Date('2026-03-11T00:00:05Z')), { added: 1, failed: 1 });
  await client.query('rollback');
  client.release();
  t.match(await enqueueDue(db, jobs, new Date('2026-03-11T00:01:05Z')), { added: 1, failed: 1 });
  t.strictSame(await short(), ['b failed 11', 'a failed 11']);
});

t.test('rolls back the end of the run when the event cannot be recorded', async t => {
  const { begin, fail, short, config, webhookJobs } = await start();
  const attempt = await begin('2026-03-02T00:00:00Z');
  await pool.query(
    `alter table webhook_events add constraint broken check (type <> 'export.failed')`,
  );
  await t.rejects(fail(attempt, '2026-03-02T00:01:00Z'));
  t.equal((await pool.query(`select from export_runs where state = 'running'`)).rowCount, 1);
  t.match(await config(), { failures_in_a_row: 0, has_pushed_failure: false });
  await pool.query('alter table webhook_events drop constraint broken');
  t.equal(await fail(attempt, '2026-03-02T00:02:00Z'), true);
  t.strictSame(await short(), ['a failed 02']);
  t.equal((await webhookJobs()).length, 1);
});

t.test('removes old webhook events', async t => {
  const { failDay, short } = await start();
  await failDay(1);
  await failDay(3);
  await enqueueDue(db, jobs, new Date('2026-03-09T02:00:00Z'));
  t.strictSame(await short(), ['a failed 03']);
});

t.test('serializes the end of runs with changes and the deletion of their config', async t => {
  const { begin, fail, succeed, config } = await start();
  const path = '/v1/environments/acme/export-configs/a';
  const statuses = new Set<number>();
  const call = async (method: string, json?: object) => {
    const answer = await app.call(path, { method, ...(json === undefined ? {} : { json }) });
    statuses.add(answer.status);
  };
  for (let round = 0; round < 10; round += 1) {
    await pool.query('update export_configs set enabled = true');
    const attempt = await begin(null);
    const now = new Date(Date.UTC(2026, 2, 2, 1, round)).toISOString();
    await Promise.all([
      round % 2 === 0 ? fail(attempt, now) : succeed(attempt, now),
      call('PATCH', { enabled: false }),
      call('PATCH', { name: `round ${round}` }),
      enqueueDue(db, jobs, new Date(now)),
    ]);
    await pool.query(
      `update export_runs set state = 'failed', finished_at = now(), job_id = null where finished_at is null`,
    );
  }
  t.ok(
    [...statuses].every(status => status === 200 || status === 409),
    [...statuses].join(),
  );
  t.ok((await config()).failures_in_a_row <= 1, 'each success resets the count');
  const last = await begin(null);
  await Promise.all([fail(last, '2026-03-05T01:00:00Z'), call('DELETE')]);
  t.ok(statuses.has(204));
  const other = await begin(null, 'b');
  const [, gone] = await Promise.all([
    fail(other, '2026-03-05T01:00:00Z'),
    app.call('/v1/environments/acme', { method: 'DELETE' }),
  ]);
  t.equal(gone.status, 204);
  t.equal((await pool.query('select from webhook_events')).rowCount, 0);
});

t.test('sends an event of an environment before the many events of another one', async t => {
  await start({ configs: ['a'], url: null });
  await app.putEnvironment('quiet');
  await pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key,
     endpoint, access_key_id, sealed_secret, compression, manifest, active_since,
     created_at, updated_at)
   select 'quiet', id, name, enabled, schedule, provider, bucket, region, key, endpoint, access_key_id,
     sealed_secret, compression, manifest, active_since, created_at, updated_at
   from export_configs`,
  );
  for (const id of ['acme', 'quiet']) {
    const saved = await app.call(`/v1/environments/${id}/failure-webhook`, {
      method: 'PUT',
      json: { url: 'https://hooks.example.com/', events: ['export.succeeded'] },
    });
    t.equal(saved.status, 201);
    registerSecret(saved.json.failureWebhookSecret);
  }
  const startMs = Date.parse('2026-03-02T00:00:00Z');
  const insert = (environmentId: string, atMs: number) =>
    db.transaction().execute(trx => {
      const run = {
        environmentId,
        configId: 'a',
        configName: 'Nightly',
        runId: String(atMs),
        slot: null,
        snapshotDate: '2026-03-01',
      };
      return insertEvents(trx, jobs, [succeededEvent(run, result)], new Date(atMs));
    });
  for (let count = 0; count < 20; count += 1) await insert('acme', startMs + count);
  await insert('quiet', startMs + 20);
  const fetched = await jobs.fetch<WebhookJob>(webhookQueue, { batchSize: 2 });
  const environmentIds = fetched.map(({ data }) => data.environmentId);
  t.strictSame(environmentIds.toSorted(), ['acme', 'quiet']);

  await insert('acme', startMs + 61 * 60_000);
  const [next] = await jobs.fetch<WebhookJob>(webhookQueue);
  const { rows } = await pool.query('select created_at from webhook_events where id = $1', [
    next?.data.eventId,
  ]);
  t.equal(rows[0].created_at.getTime(), startMs + 61 * 60_000, 'earlier events count for an hour');
});
