import t from 'tap';
import { startPostgresServer } from '../../dev/postgres-server.ts';
import { migrateToLatest } from '../../src/db/migrator.ts';
import { startApp } from '../helpers/app.ts';
import { writeDenseSnapshot } from '../helpers/dense-snapshot.ts';
import { configBody, makeConfig, runReader, startExportWorker } from '../helpers/export-configs.ts';
import { hastenRetries } from '../helpers/hasten-retries.ts';
import { contentsOf, needsS3, readObject, s3Destination, s3Server } from '../helpers/s3.ts';
import { startS3Proxy } from '../helpers/s3-proxy.ts';
import { until } from '../helpers/until.ts';

/**
 * More rows than the parts and buffers hold, so that the run is still reading when Postgres
 * crashes.
 */
const rowCount = 100_000;

t.test(
  'writes one complete object when Postgres crashes and restarts during a run',
  needsS3,
  async t => {
    const server = await startPostgresServer();
    t.teardown(server.remove);
    await migrateToLatest(server.url);
    const proxy = await startS3Proxy();
    t.teardown(proxy.close);
    const app = await startApp(t, {
      databaseUrl: server.url,
      env: { S3_ENDPOINT_ALLOWLIST: '127.0.0.1' },
    });
    await app.putEnvironment('acme');
    const query = (text: string) => app.dependencies.pools.api.query(text);
    await writeDenseSnapshot(app.dependencies.pools.api, {
      environmentId: 'acme',
      date: '2026-03-01',
      rows: rowCount,
    });
    const { id, key } = await makeConfig(
      app,
      'acme',
      configBody('full', { endpoint: proxy.endpoint }),
    );
    startExportWorker(t, app);
    proxy.decide(request => (/partNumber=1&/.test(request.url ?? '') ? 'stall' : 'pass'));
    const { json } = await app.call(`/v1/environments/acme/export-configs/${id}/runs`, {
      method: 'POST',
    });
    await until(
      async () => proxy.requests.some(request => request.includes('partNumber=1')),
      Boolean,
    );

    await server.stop('immediate');
    t.equal((await app.call('/v1/environments')).status, 503);
    proxy.decide(() => 'pass');
    // The worker aborts the upload although it cannot write to the database.
    await until(
      () => contentsOf(s3Destination({ key })),
      found => found.unfinished.length === 0,
    );
    await server.start();
    const runs = runReader(app, 'acme');
    await until(
      () => app.call('/health/ready'),
      answer => answer.status === 200,
    );
    // Simulates 20 s without a heartbeat and skips the delay before the next attempt.
    await until(
      async () => {
        await query(
          `update pgboss.job set heartbeat_on = now() - interval '1 hour' where name = 'run-export' and state = 'active'`,
        );
        await hastenRetries(app.dependencies.pools.api);
        return await runs.read(json.id);
      },
      run => run.attempts === 2,
    );
    const run = await runs.finished(json.id);
    t.match(run, { state: 'successful', attempts: 2, rowCount, error: null });
    t.strictSame(await contentsOf(s3Destination({ key })), {
      objects: [run.objectKey],
      unfinished: [],
    });
    const { body } = await readObject(s3Server().bucket, run.objectKey);
    t.ok(
      body.equals((await app.download('acme', '30-days-daily')).body),
      'the object equals the section of the download',
    );
  },
);
