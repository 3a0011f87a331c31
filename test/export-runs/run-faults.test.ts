import { createHash } from 'node:crypto';
import type http from 'node:http';
import t, { type Test } from 'tap';
import {
  configBody,
  makeConfig,
  runReader,
  startExportApp,
  startExportWorker,
} from '../helpers/export-configs.ts';
import { fillSnapshot } from '../helpers/fill-snapshot.ts';
import { hastenRetries } from '../helpers/hasten-retries.ts';
import { renderAll } from '../helpers/render-snapshots.ts';
import { contentsOf, needsS3, readObject, s3Destination, s3Server } from '../helpers/s3.ts';
import { type Fate, startS3Proxy } from '../helpers/s3-proxy.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { writeWideSnapshot } from '../helpers/wide-snapshot.ts';

/**
 * Runs whose storage fails, or that are cancelled. All tests share one service, one worker, one
 * proxy and one snapshot. Each has its own config, or its own environment if it changes that.
 */

t.setTimeout(600_000);

/** A file with these rows is a little larger than a part of 8 MiB. */
const size = { date: '2026-03-01', rows: 50, nameBytes: 170_000 };
const nothing = { objects: [], unfinished: [] };

const shared = needsS3.skip ? null : await startShared();

async function startShared() {
  const app = await startExportApp(t, { now: '2026-03-02T10:00:00.000Z' });
  const proxy = await startS3Proxy();
  t.teardown(proxy.close);
  const addEnvironment = async (environmentId: string) => {
    await app.putEnvironment(environmentId);
    await writeWideSnapshot(app.database.pool, { environmentId, ...size });
  };
  await addEnvironment('acme');
  await renderAll(app);
  const worker = startExportWorker(t, app);
  const { body: file } = await app.download('acme', '30-days-daily');
  return { app, proxy, worker, addEnvironment, file };
}

/** Creates a config. Another environment than the default gets its own snapshot. */
async function start(environmentId = 'acme') {
  if (shared === null) throw new Error('a test without `needsS3` asked for the service');
  const { app, proxy: whole, worker, addEnvironment, file } = shared;
  const { pool } = app.database;
  const environmentPath = `/v1/environments/${environmentId}`;
  const path = `${environmentPath}/export-configs`;
  if (environmentId !== 'acme') await addEnvironment(environmentId);
  const keys: string[] = [];
  const addConfig = async () => {
    const body = configBody('full', { endpoint: whole.endpoint });
    keys.push(body.key);
    return await makeConfig(app, environmentId, body);
  };
  const config = await addConfig();
  const destination = s3Destination({ key: config.key });
  const isOwn = (url = '') => keys.some(key => url.includes(key));
  /** The proxy, limited to the requests of this test. */
  const proxy = {
    decide: (decision: (request: http.IncomingMessage) => Fate) =>
      whole.decide(request => (isOwn(request.url) ? decision(request) : 'pass')),
    requests: () => whole.requests.filter(isOwn),
  };
  const runNow = async (configId = config.id): Promise<string> => {
    const started = await app.call(`${path}/${configId}/runs`, { method: 'POST' });
    worker.wake();
    return started.json.id;
  };
  const hasten = async () => {
    await hastenRetries(pool);
    worker.wake();
  };
  const runs = runReader(app, environmentId);
  /**
   * Waits until an attempt has failed and its job waits for the next one. Postpones that one until
   * `hasten`. Returns the run.
   */
  const untilRetry = async (runId: string, attempts = 1) => {
    const run = await waitFor(`the end of attempt ${attempts}`, () => runs.read(runId), {
      isWanted: ({ state, attempts: made }) => state === 'queued' && made === attempts,
    });
    // The run is queued again before its job waits.
    const jobs = `
      update pgboss.job set start_after = now() + interval '1 hour'
      where state = 'retry' and data ->> 'runId' = $1`;
    await waitFor(
      'a job that waits for its retry',
      async () => (await pool.query(jobs, [runId])).rowCount === 1,
    );
    return run;
  };
  const untilPartTwo = () =>
    waitFor('the upload of part 2', () =>
      proxy.requests().some(request => request.includes('partNumber=2')),
    );
  /** Waits until the deleted config is removed from the database. */
  const untilPurged = () =>
    waitFor(
      'the removal of the config',
      async () =>
        (await pool.query('select from export_configs where id = $1', [config.id])).rowCount,
      { isWanted: count => count === 0 },
    );
  const expectWhole = async (
    t: Test,
    run: { objectKey: string; sha256: string; bytes: number },
  ) => {
    const { body } = await readObject(s3Server().bucket, run.objectKey);
    t.ok(body.equals(file), 'the object equals the section of the download');
    t.equal(run.sha256, createHash('sha256').update(file).digest('hex'));
    t.equal(run.bytes, file.length);
    t.strictSame((await contentsOf(destination)).unfinished, []);
  };
  return {
    app,
    pool,
    worker,
    environmentId,
    environmentPath,
    path,
    addConfig,
    proxy,
    config,
    destination,
    runNow,
    hasten,
    untilRetry,
    untilPartTwo,
    untilPurged,
    expectWhole,
    runs,
  };
}

const isPart = (request: http.IncomingMessage, number?: number) =>
  request.method === 'PUT' &&
  new RegExp(`partNumber=${number ?? '\\d+'}(&|$)`).test(request.url ?? '');

t.test(
  'queues the run again after failed attempts, then writes one complete object',
  needsS3,
  async t => {
    const { app, path, proxy, config, destination, runNow, hasten, untilRetry, runs, expectWhole } =
      await start();
    let id = '';
    for (const [index, [fate, code]] of (
      [
        ['slow-down', 'storage_unavailable'],
        ['reset', 'endpoint_unreachable'],
      ] as const
    ).entries()) {
      proxy.decide(request => (isPart(request, 2) ? fate : 'pass'));
      if (index === 0) id = await runNow();
      else await hasten();
      const waiting = await untilRetry(id, index + 1);
      t.equal(waiting.error.code, code);
      t.equal(waiting.finishedAt, null);
      t.strictSame(
        await contentsOf(destination),
        nothing,
        'no object or upload is left between attempts',
      );
      const { status } = (await app.call(`${path}/${config.id}`)).json;
      t.match(status, { status: 'never ran before', running: false, error: null });
    }
    // The third attempt repeats the part until the storage accepts it.
    let asked = 0;
    proxy.decide(request => (isPart(request, 2) && ++asked < 3 ? 'slow-down' : 'pass'));
    await hasten();
    const run = await runs.finished(id);
    t.match(run, { state: 'successful', attempts: 3, error: null, rowCount: size.rows });
    t.equal(asked, 3);
    await expectWhole(t, run);
  },
);

t.test('removes uploads that could not be aborted during an outage', needsS3, async t => {
  /** Starts a run whose first attempt fails and cannot abort its upload. */
  const leftBehind = async () => {
    const started = await start();
    const isBroken = (request: http.IncomingMessage) =>
      isPart(request, 2) || request.method === 'DELETE';
    started.proxy.decide(request => (isBroken(request) ? 'slow-down' : 'pass'));
    const id = await started.runNow();
    await started.untilRetry(id);
    t.equal((await contentsOf(started.destination)).unfinished.length, 1);
    return { ...started, id };
  };

  await t.test('aborts the earlier upload before the next attempt', async t => {
    const { proxy, id, hasten, runs, expectWhole } = await leftBehind();
    await hasten();
    await waitFor(
      '6 requests that abort an upload',
      () => proxy.requests().filter(request => request.startsWith('DELETE')).length,
      {
        // Each S3 call is tried three times.
        isWanted: count => count >= 6,
      },
    );
    t.match(await runs.read(id), { error: { code: 'storage_unavailable' } });
    proxy.decide(() => 'pass');
    const hastening = setInterval(hasten, 500);
    t.teardown(() => clearInterval(hastening));
    const run = await runs.finished(id);
    t.match(run, { state: 'successful', attempts: 2, error: null });
    await expectWhole(t, run);
  });

  await t.test('aborts the upload when the config is deleted between attempts', async t => {
    const { app, path, config, destination, proxy, hasten, untilPurged } = await leftBehind();
    t.equal((await app.call(`${path}/${config.id}`, { method: 'DELETE' })).status, 204);
    proxy.decide(() => 'pass');
    await hasten();
    await untilPurged();
    t.strictSame(await contentsOf(destination), nothing);
  });

  await t.test('aborts the upload when the config is deleted during the run', async t => {
    const { app, path, config, destination, proxy, runNow, hasten, untilPartTwo, untilPurged } =
      await start();
    const fates: Record<string, Fate> = { PUT: 'stall', DELETE: 'slow-down' };
    proxy.decide(request =>
      isPart(request, 2) || request.method === 'DELETE'
        ? (fates[request.method ?? ''] ?? 'pass')
        : 'pass',
    );
    await runNow();
    await untilPartTwo();
    t.equal((await app.call(`${path}/${config.id}`, { method: 'DELETE' })).status, 204);
    const jobs = async () =>
      (
        await app.database.pool.query(
          `select from pgboss.job
           where name = 'run-export' and state = 'retry' and data ->> 'configId' = $1`,
          [config.id],
        )
      ).rowCount;
    await waitFor('a job that waits for its retry', jobs, { isWanted: count => count === 1 });
    t.equal((await contentsOf(destination)).unfinished.length, 1);
    proxy.decide(() => 'pass');
    await hasten();
    await untilPurged();
    t.strictSame(await contentsOf(destination), nothing);
  });
});

t.test('aborts uploads whose CreateMultipartUpload answer was lost', needsS3, async t => {
  const isStart = ({ method, url }: http.IncomingMessage) =>
    method === 'POST' && /[?&]uploads/.test(url ?? '');

  await t.test(
    'aborts the first upload when one answer is lost and the request is repeated',
    async t => {
      const { app, path, addConfig, proxy, config, destination, runNow, runs, untilPartTwo } =
        await start();
      // Configs of earlier versions may share a key. The upload of the other config must stay.
      const other = await addConfig();
      const share = 'update export_configs set key = $1 where id = $2';
      await app.database.pool.query(share, [config.key, other.id]);
      proxy.decide(request => (isPart(request, 2) ? 'stall' : 'pass'));
      const otherRun = await runNow(other.id);
      await untilPartTwo();
      let starts = 0;
      proxy.decide(request => {
        if (!isStart(request)) return 'pass';
        starts += 1;
        return starts === 1 ? 'lose' : 'pass';
      });
      t.match(await runs.finished(await runNow()), { state: 'successful', attempts: 1 });
      t.equal(starts, 2);
      t.equal(
        (await contentsOf(destination)).unfinished.length,
        1,
        'only the upload of the other config is left',
      );
      t.match(await runs.read(otherRun), { state: 'running', attempts: 1 });
      await app.call(`${path}/${other.id}`, { method: 'DELETE' });
    },
  );

  const lost = async () => {
    const started = await start();
    started.proxy.decide(request => (isStart(request) ? 'lose' : 'pass'));
    const id = await started.runNow();
    await started.untilRetry(id);
    t.equal(
      (await contentsOf(started.destination)).unfinished.length,
      3,
      'one upload for each of three requests',
    );
    return { ...started, id };
  };

  await t.test(
    'aborts all uploads when each answer is lost and the next attempt succeeds',
    async t => {
      const { proxy, id, runs, hasten, expectWhole } = await lost();
      proxy.decide(() => 'pass');
      await hasten();
      const run = await runs.finished(id);
      t.match(run, { state: 'successful', attempts: 2 });
      await expectWhole(t, run);
    },
  );

  await t.test('aborts all uploads when each answer is lost and no attempt is left', async t => {
    const { app, destination, id, runs, hasten } = await lost();
    await app.database.pool.query(
      `update pgboss.job set retry_count = retry_limit - 1
       where state = 'retry' and data ->> 'runId' = $1`,
      [id],
    );
    await hasten();
    t.match(await runs.finished(id), {
      state: 'failed',
      attempts: 2,
      error: { code: 'endpoint_unreachable' },
    });
    const isClean = await waitFor('the abort of the upload', () => contentsOf(destination), {
      isWanted: found => found.unfinished.length === 0,
    });
    t.strictSame(isClean, nothing);
  });

  await t.test(
    'aborts all uploads when the config is deleted after each answer was lost',
    async t => {
      const { app, path, proxy, config, destination, hasten, untilPurged } = await lost();
      proxy.decide(() => 'pass');
      await app.call(`${path}/${config.id}`, { method: 'DELETE' });
      await hasten();
      await untilPurged();
      t.equal((await app.call(`${path}/${config.id}`)).status, 404);
      t.strictSame(await contentsOf(destination), nothing);
    },
  );

  await t.test('aborts all uploads when the config is deleted while answers are lost', async t => {
    const { app, path, proxy, config, destination, runNow, untilPurged } = await start();
    let deleted: Promise<unknown> | null = null;
    proxy.decide(request => {
      if (!isStart(request)) return 'pass';
      deleted ??= app.call(`${path}/${config.id}`, { method: 'DELETE' });
      return 'lose';
    });
    await runNow();
    await untilPurged();
    t.equal((await app.call(`${path}/${config.id}`)).status, 404);
    t.ok(deleted);
    t.strictSame(await contentsOf(destination), nothing);
  });
});

t.test('leaves nothing in the bucket when a run is cancelled', needsS3, async t => {
  const stalled = async (environmentId?: string) => {
    const started = await start(environmentId);
    started.proxy.decide(request => (isPart(request, 2) ? 'stall' : 'pass'));
    const id = await started.runNow();
    await started.untilPartTwo();
    t.match(await started.runs.read(id), { state: 'running', attempts: 1 });
    t.equal((await contentsOf(started.destination)).unfinished.length, 1);
    const isClean = () =>
      waitFor('the abort of the upload', () => contentsOf(started.destination), {
        isWanted: found => found.unfinished.length === 0,
        // Less than the time after which the storage's own time limit ends the attempt.
        limitMs: 25_000,
      });
    return { ...started, id, isClean };
  };

  await t.test('aborts the upload of a run when its config is deleted', async t => {
    const { app, path, config, destination, isClean, untilPurged } = await stalled();
    t.equal((await app.call(`${path}/${config.id}`)).json.status.running, true);
    t.equal((await app.call(`${path}/${config.id}`, { method: 'DELETE' })).status, 204);
    t.equal((await app.call(`${path}/${config.id}`)).status, 404);
    t.strictSame(await isClean(), nothing);
    await untilPurged();
    t.strictSame(await contentsOf(destination), nothing);
  });

  await t.test('aborts the upload of a run when its config is disabled', async t => {
    const { app, path, config, id, runs, isClean, proxy, runNow, expectWhole } = await stalled();
    t.equal(
      (await app.call(`${path}/${config.id}`, { method: 'PATCH', json: { enabled: false } }))
        .status,
      200,
    );
    t.match(await runs.read(id), { state: 'failed', error: { code: 'cancelled' } });
    t.strictSame(await isClean(), nothing);
    t.match(await runs.read(id), { state: 'failed', attempts: 1, error: { code: 'cancelled' } });
    t.match((await app.call(`${path}/${config.id}`)).json.status, {
      status: 'failed',
      running: false,
      nextRunAt: null,
    });
    proxy.decide(() => 'pass');
    await expectWhole(t, await runs.finished(await runNow()));
  });

  await t.test('aborts the upload of a run when a caller cancels the run', async t => {
    const { app, path, config, id, runs, isClean, proxy, runNow, expectWhole } = await stalled();
    const of = `${path}/${config.id}/runs/${id}`;
    t.equal((await app.call(`${of}/cancel`, { method: 'POST' })).status, 202);
    t.strictSame(await isClean(), nothing);
    t.match(await runs.read(id), { state: 'failed', attempts: 1, error: { code: 'cancelled' } });
    proxy.decide(() => 'pass');
    await expectWhole(t, await runs.finished(await runNow()));
  });

  await t.test('aborts the upload of a run when the plan is lowered', async t => {
    const { app, environmentId, id, runs, isClean } = await stalled('lowered');
    await app.putEnvironment(environmentId, 'pro');
    t.strictSame(await isClean(), nothing);
    t.match(await runs.finished(id), { state: 'failed', error: { code: 'plan_upgrade_required' } });
  });

  await t.test('aborts the upload of a run when its environment is deleted', async t => {
    const { app, pool, environmentId, environmentPath, isClean } = await stalled('deleted');
    t.equal((await app.call(environmentPath, { method: 'DELETE' })).status, 204);
    t.strictSame(await isClean(), nothing);
    const left = 'select from export_runs where environment_id = $1';
    t.equal((await pool.query(left, [environmentId])).rowCount, 0);
  });
});

t.test(
  'does not overwrite a later attempt when a worker without heartbeats still runs',
  needsS3,
  async t => {
    const { app, pool, proxy, runNow, runs, hasten, untilPartTwo, expectWhole } = await start();
    proxy.decide(request => (isPart(request, 2) ? 'stall' : 'pass'));
    const id = await runNow();
    await untilPartTwo();
    // Does what the supervisor does when heartbeats stop: fails the job while the first attempt
    // still runs.
    proxy.decide(() => 'pass');
    const { rows } = await pool.query(`select job_id from export_runs where id = $1`, [id]);
    await app.dependencies.jobs.fail('run-export', rows[0].job_id);
    await hasten();
    const run = await runs.finished(id);
    t.match(run, { state: 'successful', attempts: 2, error: null });
    await expectWhole(t, run);
  },
);

t.test(
  'ends the run and its upload when the worker dies during the last attempt',
  needsS3,
  async t => {
    const { app, pool, worker, proxy, destination, runNow, runs, untilPartTwo } = await start();
    proxy.decide(request => (isPart(request, 2) ? 'stall' : 'pass'));
    const id = await runNow();
    await untilPartTwo();
    const { rows } = await pool.query(`select job_id from export_runs where id = $1`, [id]);
    await pool.query('update pgboss.job set retry_count = retry_limit where id = $1', [
      rows[0].job_id,
    ]);
    await app.dependencies.jobs.fail('run-export', rows[0].job_id);
    worker.wake();
    const run = await runs.finished(id);
    t.match(run, { state: 'failed', error: { code: 'internal_error' } });
    await waitFor('the abort of the upload', () => contentsOf(destination), {
      isWanted: found => found.unfinished.length === 0,
    });
  },
);

t.test('does not let one environment with many configs delay the others', needsS3, async t => {
  const { app, pool, worker, environmentId, path, addConfig, proxy, runNow, config } =
    await start('with-many-configs');
  const other = 'with-one-config';
  await app.putEnvironment(other);
  await fillSnapshot(pool, other, '2026-03-01', 10);
  const mine = await makeConfig(app, other);
  const many = [config.id];
  for (let index = 0; index < 2; index += 1) many.push((await addConfig()).id);
  proxy.decide(request => (isPart(request) ? 'stall' : 'pass'));
  for (const id of many) await runNow(id);
  const query = `select from export_runs where state = 'running' and environment_id = $1`;
  const running = async () => (await pool.query(query, [environmentId])).rowCount;
  await waitFor('two running runs', running, { isWanted: count => count === 2 });
  const started = await app.call(`/v1/environments/${other}/export-configs/${mine.id}/runs`, {
    method: 'POST',
  });
  worker.wake();
  t.match(await runReader(app, other).finished(started.json.id), { state: 'successful' });
  t.equal(await running(), 2, 'at most two runs of one environment at once');
  for (const id of many) await app.call(`${path}/${id}`, { method: 'DELETE' });
});
