import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { runQueue } from '../../src/db/job-queue.ts';
import { isoDate } from '../../src/shared/iso-date.ts';
import { configBody, makeConfig, startExportApp } from '../helpers/export-configs.ts';
import { hastenRetries } from '../helpers/hasten-retries.ts';
import { contentsOf, needsS3, readObject, s3Destination, s3Server } from '../helpers/s3.ts';
import { startS3Proxy } from '../helpers/s3-proxy.ts';
import { startServiceProcess } from '../helpers/service-process.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { writeWideSnapshot } from '../helpers/wide-snapshot.ts';

/**
 * Kills a real worker process with SIGKILL during runs of several parts. The clock of workers starts
 * at noon UTC, so that no slot becomes due during the test.
 */

t.setTimeout(600_000);

/** One worker executes their runs at once. */
const environments = ['env-0', 'env-1'];
/** A file with these rows is a little larger than a part of 8 MiB. */
const size = { rows: 50, nameBytes: 170_000 };
/**
 * Maximum number of requests of both runs before the kill. A run needs at least four, so the kill
 * always leaves an unfinished run.
 */
const maxRequests = 3;

t.test(
  'writes one complete object per slot when a worker is killed at a random instant',
  needsS3,
  async t => {
    const today = isoDate(new Date());
    const noon = Date.parse(`${today}T12:00:00.000Z`);
    const yesterday = isoDate(new Date(noon - 86_400_000));
    const clockFile = path.join(t.testdir(), 'clock');
    fs.writeFileSync(clockFile, String(noon - Date.now()));
    const startWorker = () => {
      const env = { PROCESS_ROLE: 'worker', TEST_CLOCK_FILE: clockFile };
      const worker = startServiceProcess(url, env);
      t.teardown(() => worker.end('SIGKILL'));
      return worker;
    };
    const app = await startExportApp(t, { now: new Date(noon).toISOString() });
    const { pool, url } = app.database;
    const proxy = await startS3Proxy();
    t.teardown(proxy.close);
    const keys = new Map<string, string>();
    for (const environment of environments) {
      await app.putEnvironment(environment);
      await writeWideSnapshot(pool, { environmentId: environment, date: yesterday, ...size });
      const { key } = await makeConfig(
        app,
        environment,
        configBody('full', { endpoint: proxy.endpoint }),
      );
      keys.set(environment, key);
    }
    proxy.decide(() => 'slow');

    const states = async () =>
      (
        await pool.query(
          `select state, attempts, upload_id is not null as uploading from export_runs`,
        )
      ).rows;
    await pool.query(`update export_configs set active_since = now() - interval '2 days'`);
    // Counted from before the start, because runs go on while the database is asked.
    const wanted = proxy.requests.length + Math.floor(Math.random() * (maxRequests + 1));
    const worker = startWorker();
    await waitFor('the start of a run', states, {
      isWanted: runs => runs.some(run => run.attempts > 0),
      limitMs: 90_000,
    });
    await waitFor(`${wanted} requests to the storage`, () => proxy.requests.length, {
      isWanted: count => count >= wanted,
    });
    t.equal(await worker.end('SIGKILL'), 'SIGKILL');
    const running = (await states()).filter(run => run.state === 'running');
    const uploading = running.filter(run => run.uploading);
    t.comment(`killed: ${running.length} running, ${uploading.length} uploading parts`);
    const killedAt = new Date();
    // Its last heartbeat is too old at once.
    await pool.query(
      `update pgboss.job set heartbeat_on = heartbeat_on - interval '20 s' where state = 'active'`,
    );

    const survivor = startWorker();
    // The search for such jobs every 10 s returns them to the queue.
    const heldByDead = async () =>
      (
        await pool.query(
          `select id, heartbeat_on, now() from pgboss.job where name = $1 and state = 'active' and heartbeat_on < $2`,
          [runQueue, killedAt],
        )
      ).rows;
    await waitFor('the end of all jobs of the killed worker', heldByDead, {
      isWanted: jobs => jobs.length === 0,
      limitMs: 100_000,
    });
    await hastenRetries(pool);
    const isOver = (runs: { state: string }[]) =>
      runs.every(run => run.state === 'successful' || run.state === 'failed');
    await waitFor('the end of all runs', states, { isWanted: isOver, limitMs: 120_000 });

    const { rows: runs } = await pool.query('select * from export_runs order by environment_id');
    t.equal(runs.length, environments.length, 'one run per slot');
    for (const run of runs) {
      t.equal(run.state, 'successful');
      t.equal(run.slot.toISOString(), `${today}T00:00:00.000Z`);
      const key = keys.get(run.environment_id) ?? '';
      const found = await contentsOf(s3Destination({ key }));
      t.strictSame(found, { objects: [run.object_key], unfinished: [] });
      const { body } = await readObject(s3Server().bucket, run.object_key);
      t.equal(createHash('sha256').update(body).digest('hex'), run.sha256);
      const file = await app.download(run.environment_id, '30-days-daily');
      t.ok(body.equals(file.body), 'the object equals the section of the download');
    }
    t.ok(
      runs.some(run => run.attempts > 1),
      'another worker took over some run',
    );

    await t.test('hands a run that does not end to another worker at SIGTERM', async t => {
      const environmentId = 'env-0';
      const body = configBody('full', { endpoint: proxy.endpoint });
      const { id } = await makeConfig(app, environmentId, body);
      const isPartTwo = (url = '') => url.includes(body.key) && url.includes('partNumber=2');
      proxy.decide(request => (isPartTwo(request.url) ? 'stall' : 'pass'));
      await app.call(`/v1/environments/${environmentId}/export-configs/${id}/runs`, {
        method: 'POST',
      });
      await waitFor('the upload of part 2', () => proxy.requests.some(isPartTwo));
      proxy.decide(() => 'pass');
      const second = startWorker();
      const toldAt = Date.now();
      t.equal(await survivor.end('SIGTERM'), 0);
      const tookMs = Date.now() - toldAt;
      t.ok(tookMs < 30_000, `stopped after ${tookMs} ms`);
      const run = await waitFor(
        'a successful run',
        async () =>
          (await pool.query('select * from export_runs where config_id = $1', [id])).rows[0],
        // A job of a dead worker is taken over later.
        { isWanted: found => found.state === 'successful', limitMs: 15_000 },
      );
      t.equal(run.attempts, 2);
      t.strictSame(await contentsOf(s3Destination({ key: body.key })), {
        objects: [run.object_key],
        unfinished: [],
      });
      t.equal(await second.end('SIGTERM'), 0);
    });
  },
);
