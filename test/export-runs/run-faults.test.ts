import { createHash } from 'node:crypto';
import type http from 'node:http';
import t, { type Test } from 'tap';
import { configBody, makeConfig, runReader, startExportApp, startExportWorker } from '../helpers/export-configs.ts';
import { until } from '../helpers/until.ts';
import { fillSnapshot } from '../helpers/fill-snapshot.ts';
import { hastenRetries } from '../helpers/hasten-retries.ts';
import { contentsOf, needsS3, readObject, s3Destination, s3Server } from '../helpers/s3.ts';
import { type Fate, startS3Proxy } from '../helpers/s3-proxy.ts';

/** Runs whose storage fails, or that are cancelled. */

t.setTimeout(300_000);

const path = '/v1/environments/acme/export-configs';
/** Enough rows for two parts of 8 MiB. */
const rowCount = 50_000;
const nothing = { objects: [], unfinished: [] };

async function start(t: Test) {
  const app = await startExportApp(t, { now: '2026-03-02T10:00:00.000Z' });
  const proxy = await startS3Proxy();
  t.teardown(proxy.close);
  await app.putEnvironment('acme');
  await fillSnapshot(app.database.pool, 'acme', '2026-03-01', rowCount);
  const config = await makeConfig(app, 'acme', configBody('full', { endpoint: proxy.endpoint }));
  const destination = s3Destination({ key: config.key });
  startExportWorker(t, app);
  const runNow = async (): Promise<string> =>
    (await app.call(`${path}/${config.id}/runs`, { method: 'POST' })).json.id;
  const hasten = () => hastenRetries(app.database.pool);
  /** Waits until the deleted config is removed from the database. */
  const untilPurged = () =>
    until(
      async () => (await app.database.pool.query('select from export_configs')).rowCount,
      count => count === 0,
    );
  const expectWhole = async (run: { objectKey: string; sha256: string; bytes: number }) => {
    const { body } = await readObject(s3Server().bucket, run.objectKey);
    const file = (await app.download('acme', '30-days-daily')).body;
    t.ok(body.equals(file), 'the object equals the section of the download');
    t.equal(run.sha256, createHash('sha256').update(file).digest('hex'));
    t.equal(run.bytes, file.length);
    t.strictSame((await contentsOf(destination)).unfinished, []);
  };
  return {
    app,
    proxy,
    config,
    destination,
    runNow,
    hasten,
    untilPurged,
    expectWhole,
    runs: runReader(app, 'acme'),
  };
}

const isPart = (request: http.IncomingMessage, number?: number) =>
  request.method === 'PUT' &&
  new RegExp(`partNumber=${number ?? '\\d+'}(&|$)`).test(request.url ?? '');

t.test('succeeds when the storage answers SlowDown twice', needsS3, async t => {
  const { proxy, runNow, runs, expectWhole } = await start(t);
  let left = 2;
  proxy.decide(request => (isPart(request, 2) && left-- > 0 ? 'slow-down' : 'pass'));
  const run = await runs.finished(await runNow());
  t.match(run, { state: 'successful', attempts: 1, rowCount });
  t.ok(proxy.requests.filter(request => request.includes('partNumber=2')).length === 3);
  await expectWhole(run);
});

t.test(
  'queues the run again after failed attempts, then writes one complete object',
  needsS3,
  async t => {
    const { app, proxy, config, destination, runNow, hasten, runs, expectWhole } = await start(t);
    const table: Fate[] = ['slow-down', 'reset'];
    let fate: Fate = 'pass';
    proxy.decide(request => (isPart(request, 2) ? fate : 'pass'));
    const codes = { 'slow-down': 'storage_unavailable', reset: 'endpoint_unreachable' } as Record<
      string,
      string
    >;
    fate = table[0] ?? 'pass';
    const id = await runNow();
    for (const [index, bad] of table.entries()) {
      fate = bad;
      await hasten();
      const waiting = await until(
        () => runs.read(id),
        run => run.state === 'queued' && run.attempts === index + 1,
      );
      t.equal(waiting.error.code, codes[bad]);
      t.equal(waiting.finishedAt, null);
      t.strictSame(
        await contentsOf(destination),
        nothing,
        'no object or upload is left between attempts',
      );
      const { status } = (await app.call(`${path}/${config.id}`)).json;
      t.match(status, { status: 'never ran before', running: false, error: null });
    }
    fate = 'pass';
    await hasten();
    const run = await runs.finished(id);
    t.match(run, { state: 'successful', attempts: 3, error: null });
    await expectWhole(run);
  },
);

t.test('removes uploads that could not be aborted during an outage', needsS3, async t => {
  /** Starts a run whose first attempt fails and cannot abort its upload. */
  const leftBehind = async (t: Test) => {
    const started = await start(t);
    const isBroken = (request: http.IncomingMessage) =>
      isPart(request, 2) || request.method === 'DELETE';
    started.proxy.decide(request => (isBroken(request) ? 'slow-down' : 'pass'));
    const id = await started.runNow();
    await until(
      () => started.runs.read(id),
      run => run.state === 'queued' && run.attempts === 1,
    );
    t.equal((await contentsOf(started.destination)).unfinished.length, 1);
    return { ...started, id };
  };

  await t.test('aborts the earlier upload before the next attempt', async t => {
    const { proxy, id, hasten, runs, expectWhole } = await leftBehind(t);
    await hasten();
    await until(
      async () => proxy.requests.filter(request => request.startsWith('DELETE')).length,
      // Each S3 call is tried three times.
      count => count >= 6,
    );
    t.match(await runs.read(id), { error: { code: 'storage_unavailable' } });
    proxy.decide(() => 'pass');
    const hastening = setInterval(hasten, 500);
    t.teardown(() => clearInterval(hastening));
    const run = await runs.finished(id);
    t.match(run, { state: 'successful', attempts: 2, error: null });
    await expectWhole(run);
  });

  await t.test('aborts the upload when the config is deleted between attempts', async t => {
    const { app, config, destination, proxy, hasten } = await leftBehind(t);
    t.equal((await app.call(`${path}/${config.id}`, { method: 'DELETE' })).status, 204);
    proxy.decide(() => 'pass');
    await hasten();
    await until(
      async () => (await app.database.pool.query('select from export_configs')).rowCount,
      count => count === 0,
    );
    t.strictSame(await contentsOf(destination), nothing);
  });

  await t.test('aborts the upload when the config is deleted during the run', async t => {
    const { app, config, destination, proxy, runNow, hasten } = await start(t);
    const fates: Record<string, Fate> = { PUT: 'stall', DELETE: 'slow-down' };
    proxy.decide(request =>
      isPart(request, 2) || request.method === 'DELETE'
        ? (fates[request.method ?? ''] ?? 'pass')
        : 'pass',
    );
    await runNow();
    await until(
      async () => proxy.requests.some(request => request.includes('partNumber=2')),
      Boolean,
    );
    t.equal((await app.call(`${path}/${config.id}`, { method: 'DELETE' })).status, 204);
    const jobs = async () =>
      (
        await app.database.pool.query(
          `select from pgboss.job where name = 'run-export' and state = 'retry'`,
        )
      ).rowCount;
    await until(jobs, count => count === 1);
    t.equal((await contentsOf(destination)).unfinished.length, 1);
    proxy.decide(() => 'pass');
    await hasten();
    await until(
      async () => (await app.database.pool.query('select from export_configs')).rowCount,
      count => count === 0,
    );
    t.strictSame(await contentsOf(destination), nothing);
  });
});

t.test('aborts uploads whose CreateMultipartUpload answer was lost', needsS3, async t => {
  const isStart = ({ method, url }: http.IncomingMessage) =>
    method === 'POST' && /[?&]uploads/.test(url ?? '');

  await t.test('when one answer is lost and the client repeats the request', async t => {
    const { app, proxy, config, destination, runNow, runs } = await start(t);
    // Configs of earlier versions may share a key. The upload of the other config must stay.
    const other = await makeConfig(app, 'acme', configBody('full', { endpoint: proxy.endpoint }));
    const share = 'update export_configs set key = $1 where id = $2';
    await app.database.pool.query(share, [config.key, other.id]);
    proxy.decide(request => (isPart(request, 2) ? 'stall' : 'pass'));
    const otherRun = (await app.call(`${path}/${other.id}/runs`, { method: 'POST' })).json.id;
    await until(
      async () => proxy.requests.some(request => request.includes('partNumber=2')),
      Boolean,
    );
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
  });

  const lost = async (t: Test) => {
    const started = await start(t);
    started.proxy.decide(request => (isStart(request) ? 'lose' : 'pass'));
    const id = await started.runNow();
    await until(
      () => started.runs.read(id),
      run => run.state === 'queued' && run.attempts === 1,
    );
    t.equal(
      (await contentsOf(started.destination)).unfinished.length,
      3,
      'one upload for each of three requests',
    );
    return { ...started, id };
  };

  await t.test('when each answer is lost and the next attempt succeeds', async t => {
    const { proxy, id, runs, hasten, expectWhole } = await lost(t);
    proxy.decide(() => 'pass');
    await hasten();
    const run = await runs.finished(id);
    t.match(run, { state: 'successful', attempts: 2 });
    await expectWhole(run);
  });

  await t.test('when each answer is lost and no attempt is left', async t => {
    const { app, destination, id, runs, hasten } = await lost(t);
    await app.database.pool.query(
      `update pgboss.job set retry_count = retry_limit - 1 where state = 'retry'`,
    );
    await hasten();
    t.match(await runs.finished(id), {
      state: 'failed',
      attempts: 2,
      error: { code: 'endpoint_unreachable' },
    });
    const isClean = await until(
      () => contentsOf(destination),
      found => found.unfinished.length === 0,
    );
    t.strictSame(isClean, nothing);
  });

  await t.test(
    'when each answer is lost and the config is deleted before the next attempt',
    async t => {
      const { app, proxy, config, destination, hasten, untilPurged } = await lost(t);
      proxy.decide(() => 'pass');
      await app.call(`${path}/${config.id}`, { method: 'DELETE' });
      await hasten();
      await untilPurged();
      t.equal((await app.call(`${path}/${config.id}`)).status, 404);
      t.strictSame(await contentsOf(destination), nothing);
    },
  );

  await t.test('when each answer is lost and the config is deleted meanwhile', async t => {
    const { app, proxy, config, destination, runNow, untilPurged } = await start(t);
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
  const stalled = async (t: Test) => {
    const started = await start(t);
    started.proxy.decide(request => (isPart(request, 2) ? 'stall' : 'pass'));
    const id = await started.runNow();
    await until(
      async () => started.proxy.requests.some(request => request.includes('partNumber=2')),
      Boolean,
    );
    t.match(await started.runs.read(id), { state: 'running', attempts: 1 });
    t.equal((await contentsOf(started.destination)).unfinished.length, 1);
    const isClean = () =>
      until(
        () => contentsOf(started.destination),
        found => found.unfinished.length === 0,
        5_000,
      );
    return { ...started, id, isClean };
  };

  await t.test('when the config is deleted', async t => {
    const { app, config, destination, isClean, untilPurged } = await stalled(t);
    t.equal((await app.call(`${path}/${config.id}`)).json.status.running, true);
    t.equal((await app.call(`${path}/${config.id}`, { method: 'DELETE' })).status, 204);
    t.equal((await app.call(`${path}/${config.id}`)).status, 404);
    t.strictSame(await isClean(), nothing);
    await untilPurged();
    t.strictSame(await contentsOf(destination), nothing);
  });

  await t.test('when the config is disabled', async t => {
    const { app, config, id, runs, isClean, proxy, runNow, expectWhole } = await stalled(t);
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
    await expectWhole(await runs.finished(await runNow()));
  });

  await t.test('when a caller cancels it', async t => {
    const { app, config, id, runs, isClean, proxy, runNow, expectWhole } = await stalled(t);
    const of = `${path}/${config.id}/runs/${id}`;
    t.equal((await app.call(`${of}/cancel`, { method: 'POST' })).status, 202);
    t.strictSame(await isClean(), nothing);
    t.match(await runs.read(id), { state: 'failed', attempts: 1, error: { code: 'cancelled' } });
    proxy.decide(() => 'pass');
    await expectWhole(await runs.finished(await runNow()));
  });

  await t.test('when the plan is lowered', async t => {
    const { app, id, runs, isClean } = await stalled(t);
    await app.putEnvironment('acme', 'pro');
    t.strictSame(await isClean(), nothing);
    t.match(await runs.finished(id), { state: 'failed', error: { code: 'plan_upgrade_required' } });
  });

  await t.test('when the environment is deleted', async t => {
    const { app, isClean } = await stalled(t);
    t.equal((await app.call('/v1/environments/acme', { method: 'DELETE' })).status, 204);
    t.strictSame(await isClean(), nothing);
    t.equal((await app.database.pool.query('select from export_runs')).rowCount, 0);
  });
});

t.test(
  'does not overwrite a later attempt when a worker without heartbeats still runs',
  needsS3,
  async t => {
    const { app, proxy, runNow, runs, hasten, expectWhole } = await start(t);
    proxy.decide(request => (isPart(request, 2) ? 'stall' : 'pass'));
    const id = await runNow();
    await until(
      async () => proxy.requests.some(request => request.includes('partNumber=2')),
      Boolean,
    );
    // Does what the supervisor does when heartbeats stop: fails the job while the first attempt
    // still runs.
    proxy.decide(() => 'pass');
    const { pool } = app.database;
    const { rows } = await pool.query(`select job_id from export_runs where id = $1`, [id]);
    await app.dependencies.jobs.fail('run-export', rows[0].job_id);
    await hasten();
    const run = await runs.finished(id);
    t.match(run, { state: 'successful', attempts: 2, error: null });
    await expectWhole(run);
  },
);

t.test(
  'ends the run and its upload when the worker dies during the last attempt',
  needsS3,
  async t => {
    const { app, proxy, destination, runNow, runs } = await start(t);
    proxy.decide(request => (isPart(request, 2) ? 'stall' : 'pass'));
    const id = await runNow();
    await until(
      async () => proxy.requests.some(request => request.includes('partNumber=2')),
      Boolean,
    );
    const { pool } = app.database;
    const { rows } = await pool.query(`select job_id from export_runs where id = $1`, [id]);
    await pool.query('update pgboss.job set retry_count = retry_limit where id = $1', [
      rows[0].job_id,
    ]);
    await app.dependencies.jobs.fail('run-export', rows[0].job_id);
    const run = await runs.finished(id);
    t.match(run, { state: 'failed', error: { code: 'internal_error' } });
    await until(
      () => contentsOf(destination),
      found => found.unfinished.length === 0,
      10_000,
    );
  },
);

t.test('does not let one environment with many configs delay the others', needsS3, async t => {
  const { app, proxy, runNow, config } = await start(t);
  await app.putEnvironment('other');
  await fillSnapshot(app.database.pool, 'other', '2026-03-01', 10);
  const mine = await makeConfig(app, 'other');
  const many = [config.id];
  for (let index = 0; index < 5; index += 1) {
    many.push((await makeConfig(app, 'acme', configBody('full', { endpoint: proxy.endpoint }))).id);
  }
  proxy.decide(request => (isPart(request) ? 'stall' : 'pass'));
  await runNow();
  for (const id of many.slice(1)) await app.call(`${path}/${id}/runs`, { method: 'POST' });
  const running = async () =>
    (await app.database.pool.query(`select 1 from export_runs where state = 'running'`)).rowCount;
  await until(running, count => count === 2);
  const started = await app.call(`/v1/environments/other/export-configs/${mine.id}/runs`, {
    method: 'POST',
  });
  t.match(await runReader(app, 'other').finished(started.json.id, 10_000), { state: 'successful' });
  t.equal(await running(), 2, 'at most two runs of one environment at once');
  for (const id of many) await app.call(`${path}/${id}`, { method: 'DELETE' });
});
