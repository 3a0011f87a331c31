import t, { type Test } from 'tap';
import { sealSecret } from '../../src/encryption/secrets.ts';
import { enqueueDue } from '../../src/export-runs/enqueue-due.sql.ts';
import {
  configBody,
  credentialsOf,
  makeConfig,
  runReader,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import { fillSnapshot } from '../helpers/fill-snapshot.ts';
import { emptyTables } from '../helpers/postgres.ts';
import { contentsOf, needsS3, s3Destination } from '../helpers/s3.ts';
import { startS3Proxy } from '../helpers/s3-proxy.ts';
import { registerSecret } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { startWebhookReceiver } from '../helpers/webhook-receiver.ts';

/** Callers cancel and hurry runs and start backfills, with a real worker and a real S3 server. */

t.setTimeout(600_000);

const app = await startExportApp(t);
const { pool } = app.database;

/** Replaces all data. The test has no worker until it wakes one. */
async function start(t: Test, dates: readonly string[]) {
  await emptyTables(pool);
  app.setNow('2026-03-05T10:00:00.000Z');
  let worker: ReturnType<typeof startExportWorker> | null = null;
  /** Starts the worker, or makes it look for jobs. */
  const wake = () => {
    worker ??= startExportWorker(t, app);
    worker.wake();
  };
  const proxy = await startS3Proxy();
  t.teardown(proxy.close);
  await app.putEnvironment('acme');
  for (const date of dates) await fillSnapshot(pool, 'acme', date, 3);
  const config = await makeConfig(app, 'acme', configBody('full', { endpoint: proxy.endpoint }));
  const path = `/v1/environments/acme/export-configs/${config.id}`;
  const post = (under: string, json?: object) =>
    app.call(`${path}/${under}`, { method: 'POST', ...(json && { json }) });
  const status = async () => (await app.call(`${path}/status`)).json;
  const audited = async () =>
    (await app.call('/v1/audit-log?limit=100')).json.items.map(
      (line: { action: string; targetId: string }) => `${line.action} ${line.targetId}`,
    );
  const destination = s3Destination({ key: config.key });
  return {
    proxy,
    config,
    path,
    post,
    status,
    audited,
    destination,
    wake,
    runs: runReader(app, 'acme'),
  };
}

t.test('shows why a run waits, attempts it at once and cancels it', needsS3, async t => {
  const { proxy, post, status, audited, destination, wake, runs } = await start(t, ['2026-03-04']);
  const { id } = (await post('runs')).json;
  t.match((await status()).currentRun, {
    id,
    trigger: 'manual',
    snapshotDate: '2026-03-04',
    state: 'queued',
    waitingFor: 'worker',
    attempts: 0,
    nextAttemptAt: null,
    error: null,
  });
  const second = await post('runs');
  t.match(second.json, { status: 409, code: 'conflict', detail: new RegExp(id) });
  t.match(second.headers['retry-after'], /^\d+$/);
  t.equal((await post(`runs/${id}/retry`)).status, 409, 'it does not wait for another attempt');

  proxy.decide(({ method }) => (method === 'PUT' ? 'invalid-request' : 'pass'));
  wake();
  const untilWaiting = (attempts: number, runId = id) =>
    waitFor(`the end of attempt ${attempts}`, () => runs.read(runId), {
      isWanted: run => run.state === 'queued' && run.attempts === attempts,
    });
  const { error } = await untilWaiting(1);
  t.match(error, { code: 'unknown', hint: /documentation/ });
  // The answer to an attempt that has just failed is the same as later.
  t.equal((await post(`runs/${id}/retry`)).status, 202);
  wake();
  await untilWaiting(2);
  const postpone = () =>
    waitFor(
      'a job that waits for its retry',
      () =>
        pool.query(
          `update pgboss.job set start_after = '2100-01-01T00:00:00Z' where state = 'retry' and name = 'run-export'`,
        ),
      { isWanted: ({ rowCount }) => rowCount === 1 },
    );
  await postpone();
  t.match(await status(), {
    status: 'never ran before',
    running: false,
    error: null,
    currentRun: {
      id,
      state: 'queued',
      waitingFor: 'retry',
      attempts: 2,
      nextAttemptAt: '2100-01-01T00:00:00.000Z',
      error: { code: 'unknown', hint: /documentation/ },
    },
  });
  proxy.decide(() => 'pass');
  t.match((await post(`runs/${id}/retry`)).json, { id, state: 'queued', attempts: 2 });
  wake();
  t.match(await runs.finished(id), { state: 'successful', attempts: 3, error: null });
  t.match(await status(), { currentRun: null, lastDeliveredDate: '2026-03-04', error: null });
  for (const action of ['retry', 'cancel']) {
    t.match((await post(`runs/${id}/${action}`)).json, { status: 409, code: 'conflict' });
  }

  proxy.decide(({ method }) => (method === 'PUT' ? 'invalid-request' : 'pass'));
  app.setNow('2026-03-05T11:00:00.000Z');
  const other = (await post('runs')).json.id;
  wake();
  await untilWaiting(1, other);
  await postpone();
  const markCompleting = (isCompleting: boolean) =>
    pool.query('update export_runs set is_completing = $1 where id = $2', [isCompleting, other]);
  await markCompleting(true);
  const tooLate = await post(`runs/${other}/cancel`);
  t.equal(tooLate.status, 409, 'a run that completes its object cannot be cancelled');
  t.match(tooLate.headers['retry-after'], /^\d+$/);
  await markCompleting(false);
  const cancelled = await post(`runs/${other}/cancel`);
  t.equal(cancelled.status, 202);
  t.match(cancelled.json, { id: other, state: 'failed', error: { code: 'cancelled' } });
  t.match(await status(), { status: 'failed', currentRun: null, error: { code: 'cancelled' } });
  t.match(await contentsOf(destination), { objects: { length: 1 }, unfinished: [] });
  t.equal((await post('runs/unknown/cancel')).status, 404);
  t.equal((await post('runs/unknown/retry')).status, 404);
  const lines = await audited();
  t.ok(lines.includes(`export_run.retried ${id}`));
  t.ok(lines.includes(`export_run.cancelled ${other}`));
});

t.test('exports each snapshot of a range, oldest first, and reports progress', needsS3, async t => {
  const dates = ['2026-02-27', '2026-03-01', '2026-03-02', '2026-03-04'];
  const { path, post, audited, destination, wake } = await start(t, dates);
  for (const [json, at] of [
    [{ from: '2026-03-02', to: '2026-03-01' }, '/to'],
    [{ from: '2025-03-02', to: '2026-03-03' }, '/to'],
    [{ from: '2026-02-30', to: '2026-03-03' }, '/from'],
    [{ from: '2026-03-01', to: '2026-03-02', colour: 'red' }, '/colour'],
  ] as const) {
    const refused = await post('backfills', json);
    t.match(refused.json, { status: 400, errors: [{ path: at }] }, JSON.stringify(json));
  }
  const started = await post('backfills', { from: '2026-03-01', to: '2026-03-04' });
  t.equal(started.status, 202, started.text);
  const { id } = started.json;
  t.match(started.json, {
    from: '2026-03-01',
    to: '2026-03-04',
    state: 'running',
    total: 3,
    successful: 0,
    failed: 0,
    finishedAt: null,
  });
  const second = await post('backfills', { from: '2026-02-27', to: '2026-02-27' });
  t.match(second.json, { status: 409, code: 'conflict', detail: new RegExp(id) });
  t.match(second.headers['retry-after'], /^\d+$/);

  wake();
  const finished = await waitFor(
    'the end of the backfill',
    async () => (await app.call(`${path}/backfills/${id}`)).json,
    { isWanted: backfill => backfill.state === 'finished' },
  );
  t.match(finished, { total: 3, successful: 3, failed: 0, finishedAt: String });
  const { items } = (await app.call(`${path}/runs`)).json;
  t.strictSame(
    items.map((run: Record<string, unknown>) => [run['trigger'], run['backfillId'], run['slot']]),
    Array(3).fill(['backfill', id, null]),
  );
  t.strictSame(
    (await contentsOf(destination)).objects.map(key => key.slice(-14, -4)),
    dates.slice(1),
  );
  t.equal((await post(`backfills/${id}/cancel`)).status, 409);
  t.equal((await post('backfills/unknown/cancel')).status, 404);
  t.equal((await app.call(`${path}/backfills/unknown`)).status, 404);

  app.setNow('2026-03-05T11:00:00.000Z');
  const empty = await post('backfills', { from: '2026-02-01', to: '2026-02-02' });
  t.match(empty.json, { state: 'finished', total: 0 });
  const listed = (await app.call(`${path}/backfills?limit=1`)).json;
  t.strictSame(listed.items, [empty.json]);
  const rest = (await app.call(`${path}/backfills?cursor=${listed.nextCursor}`)).json;
  t.strictSame(rest, { items: [finished], nextCursor: null });
  t.ok((await audited()).includes(`backfill.started ${id}`));
  t.equal((await app.call(path, { method: 'DELETE' })).status, 204);
  t.equal((await pool.query('select from backfills')).rowCount, 0);
});

/** The credentials of a config stop working for two weeks of slots. */
t.test('turns a config off after repeated failures', async t => {
  t.setTimeout(600_000);

  const dayOf = (day: number) => `2026-03-${String(day).padStart(2, '0')}`;

  t.test(
    'turns a config off after ten slots with wrong credentials and lets it be enabled again',
    needsS3,
    async t => {
      const receiver = await startWebhookReceiver(t);
      await emptyTables(pool);
      app.setNow('2026-03-01T10:00:00.000Z');
      const { db, jobs } = app.dependencies;
      const json = {
        name: 'acme',
        plan: 'enterprise',
        failureWebhook: receiver.url,
        webhookEvents: [
          'export.succeeded',
          'export.failed',
          'export.recovered',
          'export.turned_off',
        ],
      };
      const saved = await app.call('/v1/environments/acme', { method: 'PUT', json });
      const secret = registerSecret(saved.json.failureWebhookSecret);
      const { id, key } = await makeConfig(app, 'acme', configBody('full', { manifest: true }));
      const path = `/v1/environments/acme/export-configs/${id}`;
      const breakSecret = async () => {
        const owner = { environmentId: 'acme', configId: id };
        const wrong = sealSecret(
          app.config.encryptionKeys,
          registerSecret('wrong-secret-0123456789'),
          owner,
        );
        await pool.query('update export_configs set sealed_secret = $1', [wrong]);
      };
      await breakSecret();
      const worker = startExportWorker(t, app);
      /**
       * Inserts the snapshot of the day before, passes the slot at the start of the day and awaits
       * its run.
       */
      const pass = async (day: number) => {
        await fillSnapshot(pool, 'acme', dayOf(day - 1), 3);
        app.setNow(`${dayOf(day)}T00:00:01.000Z`);
        await enqueueDue(db, jobs, new Date(`${dayOf(day)}T00:00:01.000Z`));
        worker.wake();
        return await waitFor(
          `the end of the run of ${dayOf(day)}`,
          async () => (await app.call(`${path}/runs?limit=1`)).json.items[0],
          {
            isWanted: run => run?.slot === `${dayOf(day)}T00:00:00.000Z` && run.finishedAt !== null,
          },
        );
      };

      for (const day of [2, 3, 10, 11]) {
        t.match((await app.call(path)).json, { enabled: true, status: { turnedOff: null } });
        // Stands for six more slots that fail in the same way.
        if (day === 10)
          await pool.query(
            'update export_configs set failures_in_a_row = 8, faulty_slots_in_a_row = 8',
          );
        t.match(await pass(day), {
          state: 'failed',
          attempts: 1,
          error: { code: 'secret_key_mismatch' },
        });
      }
      const { json: off } = await app.call(path);
      t.match(off, {
        enabled: false,
        status: {
          status: 'failed',
          nextRunAt: null,
          turnedOff: {
            code: 'too_many_failures',
            message: /^10 slots in a row/,
            at: '2026-03-11T00:00:01.000Z',
          },
        },
      });
      worker.wake();
      await receiver.count(5);
      const types = () => receiver.received.map(message => message.json.type).sort();
      t.strictSame(types(), [...Array(4).fill('export.failed'), 'export.turned_off']);
      const failures = receiver.received.filter(message => message.json.type === 'export.failed');
      t.strictSame(
        failures.map(message => message.json.data.consecutiveFailures).sort((a, b) => a - b),
        [1, 2, 9, 10],
      );

      // The config is off: no further slot is enqueued.
      await fillSnapshot(pool, 'acme', dayOf(11), 3);
      t.match(await enqueueDue(db, jobs, new Date('2026-03-12T00:00:01.000Z')), { added: 0 });

      app.setNow('2026-03-12T09:00:00.000Z');
      const refused = await app.call(path, { method: 'PATCH', json: { enabled: true } });
      t.match(refused.json, { status: 422, storageError: { code: 'secret_key_mismatch' } });
      t.match((await app.call(path)).json, { enabled: false, status: off.status });
      const { secretAccessKey } = credentialsOf('full');
      const mended = await app.call(path, {
        method: 'PATCH',
        json: { enabled: true, secretAccessKey },
      });
      t.match(mended.json, {
        enabled: true,
        status: { turnedOff: null, nextRunAt: '2026-03-13T00:00:00.000Z' },
      });
      t.equal(mended.json.status.turnedOff, null);

      // The count starts at zero: one more failure does not turn the config off.
      await breakSecret();
      t.match(await pass(13), { state: 'failed' });
      t.equal((await app.call(path)).json.enabled, true);
      await app.call(path, { method: 'PATCH', json: { secretAccessKey } });
      t.match(await pass(14), { state: 'successful' });
      const last = await pass(15);
      t.match(last, { state: 'successful' });
      worker.wake();
      await receiver.count(9);
      await waitFor(
        'the end of all deliveries',
        async () =>
          (
            await pool.query(
              `select from pgboss.job where name = 'deliver-webhook' and state < 'completed'`,
            )
          ).rowCount,
        { isWanted: count => count === 0 },
      );
      t.strictSame(types(), [
        ...Array(5).fill('export.failed'),
        'export.recovered',
        ...Array(2).fill('export.succeeded'),
        'export.turned_off',
      ]);
      t.ok(receiver.received.every(message => message.isSignedWith(secret)));
      const { objects } = await contentsOf(s3Destination({ key }));
      t.equal(objects.length, 4);
      const succeeded = receiver.received
        .map(message => message.json)
        .find(({ data }) => data.runId === last.id);
      const manifestKey = `${key}/_manifest/company-adoption_acme_2026-03-14.csv.json`;
      t.ok(objects.includes(manifestKey));
      t.strictSame(succeeded, {
        type: 'export.succeeded',
        timestamp: '2026-03-15T00:00:01.000Z',
        data: {
          environmentId: 'acme',
          configId: id,
          configName: 'Nightly',
          runId: last.id,
          slot: '2026-03-15T00:00:00.000Z',
          snapshotDate: '2026-03-14',
          objectKey: last.objectKey,
          manifestKey,
          bytes: last.bytes,
          rowCount: 3,
          sha256: last.sha256,
        },
      });
    },
  );
});
