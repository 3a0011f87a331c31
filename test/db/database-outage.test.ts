import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import pg, { DatabaseError } from 'pg';
import t from 'tap';
import { startPostgresServer } from '../../dev/postgres-server.ts';
import { isDatabaseUnavailable } from '../../src/db/errors.ts';
import { migrateToLatest } from '../../src/db/migrator.ts';
import { selectQueueState } from '../../src/export-runs/select-queue-state.ts';
import { createPrometheusMetrics } from '../../src/observability/prometheus.ts';
import { adoptionRow, ingestBody, ingestColumns } from '../helpers/adoption-rows.ts';
import { startApp } from '../helpers/app.ts';
import { writeDenseSnapshot } from '../helpers/dense-snapshot.ts';
import { configBody, makeConfig, runReader, startExportWorker } from '../helpers/export-configs.ts';
import { hastenRetries } from '../helpers/hasten-retries.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { connectRaw } from '../helpers/raw-http.ts';
import { readMetrics } from '../helpers/read-metrics.ts';
import { contentsOf, needsS3, readObject, s3Destination, s3Server } from '../helpers/s3.ts';
import { startS3Proxy } from '../helpers/s3-proxy.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { writeWideSnapshot } from '../helpers/wide-snapshot.ts';

// A separate server, because the tests stop it while the service runs.
const server = await startPostgresServer(
  process.env['TEST_POSTGRES_BIN'] === undefined
    ? {}
    : { binDirectory: process.env['TEST_POSTGRES_BIN'] },
);
t.teardown(() => server.remove());
await migrateToLatest(server.url);
const app = await startApp(t, {
  databaseUrl: server.url,
  adjust: made => ({
    ...made,
    metrics: createPrometheusMetrics({
      ...made,
      runErrorCodes: [],
      queueState: () => selectQueueState(made.db, made.now()),
      queueStateKeepMs: 100,
    }),
  }),
});
for (const environmentId of ['acme', 'old']) await app.putEnvironment(environmentId, 'pro');
const pool = new pg.Pool({ connectionString: server.url, max: 1 });
pool.on('error', () => {});
t.teardown(() => pool.end());
const wide = { date: '2026-03-02', rows: 1_000, nameBytes: 50_000 };
for (const environmentId of ['acme', 'old'])
  await writeWideSnapshot(pool, { environmentId, ...wide });

// The route keeps its text for a second.
const metricsOf = async () => readMetrics(await app.dependencies.metrics.render());

for (const mode of ['immediate', 'fast'] as const) {
  t.test(
    `cuts off downloads and an ingest when the database stops (${mode}), and recovers`,
    async t => {
      await pool.query('update snapshots set version = gen_random_uuid()');
      const downloads = [];
      // HTTP/1.0 renders the snapshot, so its download has an environment of its own.
      for (const [environmentId, version, encoding] of [
        ['old', '1.0', 'identity'],
        ['acme', '1.1', 'identity'],
        ['acme', '1.1', 'gzip'],
      ]) {
        const connection = await connectRaw(app.port, 1_000);
        connection.socket.write(
          `GET /v1/environments/${environmentId}/exports/today.csv HTTP/${version}\r\nHost: x\r\n` +
            `Authorization: Bearer ${testAdminToken}\r\nAccept-Encoding: ${encoding}\r\n\r\n`,
        );
        await connection.waitFor(/\r\n\r\n/);
        downloads.push({ what: `HTTP/${version}, ${encoding}`, connection });
      }
      const ingest = await connectRaw(app.port);
      const start = `${ingestColumns.join(',')}\n`;
      ingest.socket.write(
        `PUT /v1/environments/acme/snapshots/2026-03-01 HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nAuthorization: Bearer ${testAdminToken}\r\nContent-Length: 1000000\r\n\r\n${start}`,
      );
      await waitFor('the start of the ingest', () => app.dependencies.ingestLimit.active === 1);

      // The test server writes its log lazily. The checkpoint makes sure that no data is lost.
      await pool.query('checkpoint');
      await server.stop(mode);
      for (const { what, connection } of downloads) {
        connection.socket.resume();
        t.equal(await connection.closed, 'ECONNRESET', what);
        t.notOk(connection.received().toString('latin1').endsWith('0\r\n\r\n'), what);
      }

      for (const [method, path] of [
        ['GET', '/v1/environments/acme'],
        ['GET', '/v1/environments/acme/exports'],
        ['GET', '/v1/environments/acme/exports/today.csv'],
        ['GET', '/health/ready'],
      ] as const) {
        const answer = await app.call(path, { method });
        t.equal(answer.status, 503, path);
        t.equal(answer.json.code, 'unavailable', path);
        t.match(String(answer.headers['retry-after']), /^[1-9]\d*$/, path);
        t.notMatch(answer.text, /ECONN|5432|postgres/i, path);
      }
      t.equal((await app.ingest('acme', '2026-02-28', ingestBody([adoptionRow()]))).status, 503);
      t.equal((await app.call('/health/live')).status, 200);
      await waitFor(
        'the value 0 of whx_database_up',
        async () => (await metricsOf()).get('whx_database_up') === 0,
      );
      t.notOk(
        [...(await metricsOf()).keys()].some(series => series.startsWith('whx_slots_late')),
        'metrics of unknown values are absent',
      );
      ingest.socket.write('x'.repeat(100_000));
      ingest.socket.end();
      await ingest.closed;
      t.notMatch(ingest.received().toString(), /^HTTP\/1\.1 20/);

      await server.start();
      await waitFor(
        'the readiness of the service',
        async () => (await app.call('/health/ready')).status === 200,
      );
      await waitFor(
        'the value 0 of whx_slots_late',
        async () => (await metricsOf()).get('whx_slots_late{waiting_for="run"}') === 0,
      );
      t.equal((await metricsOf()).get('whx_database_up'), 1);
      const whole = await app.download('acme', 'today');
      t.equal(whole.headers['x-total-rows'], '1000');
      t.equal(whole.text.trimEnd().split('\n').length, 1_001);
      t.strictSame(
        (await app.call('/v1/environments/acme/snapshots')).json.items.map(
          (item: { date: string }) => item.date,
        ),
        ['2026-03-02'],
      );
      await waitFor(
        'the end of all downloads and ingests',
        () => app.dependencies.downloadLimit.active + app.dependencies.ingestLimit.active === 0,
      );
    },
  );
}

t.test('survives a crash of the database during a run', async t => {
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
      await waitFor('the upload of a part', () =>
        proxy.requests.some(request => request.includes('partNumber=1')),
      );

      await server.stop('immediate');
      t.equal((await app.call('/v1/environments')).status, 503);
      proxy.decide(() => 'pass');
      // The worker aborts the upload although it cannot write to the database.
      await waitFor('the abort of the upload', () => contentsOf(s3Destination({ key })), {
        isWanted: found => found.unfinished.length === 0,
      });
      await server.start();
      const runs = runReader(app, 'acme');
      await waitFor('the readiness of the service', () => app.call('/health/ready'), {
        isWanted: answer => answer.status === 200,
      });
      // Simulates 20 s without a heartbeat and skips the delay before the next attempt.
      await waitFor(
        'the second attempt',
        async () => {
          await query(
            `update pgboss.job set heartbeat_on = now() - interval '1 hour' where name = 'run-export' and state = 'active'`,
          );
          await hastenRetries(app.dependencies.pools.api);
          return await runs.read(json.id);
        },
        { isWanted: run => run.attempts === 2 },
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
});

t.test('reports a full disk', async t => {
  t.test('answers 503 while the disk of the database is full', async t => {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'warehouse-export-disk-'));
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', directory]);
    if (mounted.status !== 0) {
      fs.rmSync(directory, { recursive: true });
      t.pass('left out', { skip: 'no tmpfs can be mounted' });
      return;
    }
    t.teardown(async () => {
      spawnSync('umount', ['-l', directory]);
      fs.rmSync(directory, { recursive: true, force: true });
    });
    const database = await createTestDatabase(t);
    const { rows } = await database.pool.query('show data_directory');
    const { uid, gid } = fs.statSync(rows[0].data_directory);
    fs.chownSync(directory, uid, gid);
    const tablespace = `whx_${randomBytes(4).toString('hex')}`;
    await database.pool.query(`create tablespace ${tablespace} location '${directory}'`);
    t.teardown(async () => {
      await database.pool.query(`drop table snapshot_rows cascade`);
      await database.pool.query(`drop tablespace ${tablespace}`);
    });
    await database.pool.query(
      `alter database ${database.name} set default_tablespace = ${tablespace}`,
    );

    const app = await startApp(t, { databaseUrl: database.url });
    await app.putEnvironment('acme');
    const body = ingestBody(
      Array.from({ length: 20_000 }, (_, index) => adoptionRow({ companyId: `company ${index}` })),
    );
    const answer = await app.ingest('acme', '2026-03-02', body);
    t.equal(answer.status, 503, answer.text);
    t.equal(answer.json.code, 'unavailable');
    t.ok(answer.headers['retry-after']);
    t.strictSame((await app.call('/v1/environments/acme/snapshots')).json.items, []);
  });

  t.test('treats every resource shortage of the server as unavailability', async t => {
    for (const code of ['53000', '53100', '53200', '53300', '53400', '58030']) {
      const error = Object.assign(new DatabaseError('shortage', 1, 'error'), { code });
      t.ok(isDatabaseUnavailable(error), code);
    }
  });
});
