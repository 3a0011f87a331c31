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
import { selectQueueState } from '../../src/export-runs/select-queue-state.sql.ts';
import { createPrometheusMetrics } from '../../src/observability/prometheus.ts';
import {
  adoptionRow,
  exportHeader,
  exportPart,
  ingestBody,
  ingestColumns,
} from '../helpers/adoption-rows.ts';
import { startApp, testNow } from '../helpers/app.ts';
import { writeDenseSnapshot } from '../helpers/dense-snapshot.ts';
import { configBody, makeConfig, runReader, startExportWorker } from '../helpers/export-configs.ts';
import { hastenRetries } from '../helpers/hasten-retries.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { startReplica } from '../helpers/postgres-replica.ts';
import { connectRaw } from '../helpers/raw-http.ts';
import { readMetrics } from '../helpers/read-metrics.ts';
import { contentsOf, needsS3, readObject, s3Destination, s3Server } from '../helpers/s3.ts';
import { startS3Proxy } from '../helpers/s3-proxy.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { writeWideSnapshot } from '../helpers/wide-snapshot.ts';

// A separate server, because the tests stop it while the service runs.
const server = await startPostgresServer();
t.teardown(() => server.remove());
const urlOf = (database: string) => new URL(database, server.url).href;
// Postgres copies this database to the new ones.
await migrateToLatest(urlOf('template1'));
const admin = new pg.Client({ connectionString: server.url });
await admin.connect();
for (const name of ['outage', 'replicated']) await admin.query(`create database ${name}`);
await admin.end();
const app = await startApp(t, {
  databaseUrl: urlOf('outage'),
  env: { S3_ENDPOINT_ALLOWLIST: '127.0.0.1' },
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
for (const environmentId of ['acme', 'old', 'small']) await app.putEnvironment(environmentId);
const pool = new pg.Pool({ connectionString: urlOf('outage'), max: 1 });
pool.on('error', () => {});
t.teardown(() => pool.end());
const date = '2026-03-02';
// More than sockets hold. The rows of acme exceed it as gzip too.
await writeDenseSnapshot(pool, { environmentId: 'acme', date, rows: 30_000 });
await app.ingest('small', date, ingestBody([adoptionRow()]));
await writeWideSnapshot(pool, { environmentId: 'old', date, rows: 400, nameBytes: 50_000 });

// The route keeps its text for a second.
const metricsOf = async () => readMetrics(await app.dependencies.metrics.render());

// HTTP/1.0 renders the snapshot, so its download has an environment of its own.
const cases = {
  immediate: [
    ['old', '1.0', 'identity'],
    ['acme', '1.1', 'identity'],
  ],
  fast: [
    ['acme', '1.1', 'identity'],
    ['acme', '1.1', 'gzip'],
  ],
} as const;

for (const mode of ['immediate', 'fast'] as const) {
  t.test(
    `cuts off downloads and an ingest when the database stops (${mode}), and recovers`,
    async t => {
      await pool.query('update snapshots set version = gen_random_uuid()');
      const downloads = [];
      for (const [environmentId, version, encoding] of cases[mode]) {
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
        connection.resume();
        t.equal(await connection.closed, 'ECONNRESET', what);
        t.notOk(connection.received().toString('latin1').endsWith('0\r\n\r\n'), what);
      }

      // Probes share an answer for a second.
      await waitFor(
        'the failure of the readiness probe',
        async () => (await app.call('/health/ready')).status === 503,
      );
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
      const whole = await app.download('small', 'today');
      t.equal(whole.text, exportHeader + exportPart([adoptionRow()], date));
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

t.test(
  'writes one complete object when Postgres crashes and restarts during a run',
  needsS3,
  async t => {
    const proxy = await startS3Proxy();
    t.teardown(proxy.close);
    const { id, key } = await makeConfig(
      app,
      'acme',
      configBody('full', { endpoint: proxy.endpoint }),
    );
    startExportWorker(t, app);
    // The upload starts after the first of three parts. The lock stops the reading of the others.
    const locked = new Promise<unknown>(resolve =>
      proxy.decide(({ url }) => {
        if (url?.includes('?uploads')) resolve(pool.query('begin; lock table snapshot_chunks'));
        return url?.includes('partNumber=1&') ? 'stall' : 'pass';
      }),
    );
    const { json } = await app.call(`/v1/environments/acme/export-configs/${id}/runs`, {
      method: 'POST',
    });
    await waitFor('the upload of a part', () =>
      proxy.requests.some(request => request.includes('partNumber=1')),
    );
    await locked;

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
        await pool.query(
          `update pgboss.job set heartbeat_on = now() - interval '1 hour' where name = 'run-export' and state = 'active'`,
        );
        await hastenRetries(pool);
        return await runs.read(json.id);
      },
      { isWanted: run => run.attempts === 2 },
    );
    const run = await runs.finished(json.id);
    t.match(run, { state: 'successful', attempts: 2, rowCount: 30_000, error: null });
    t.strictSame(await contentsOf(s3Destination({ key })), {
      objects: [run.objectKey],
      unfinished: [],
    });
    const { body } = await readObject(s3Server().bucket, run.objectKey);
    t.ok(
      body.equals((await app.download('acme', 'today')).body),
      'the object equals the section of the download',
    );
  },
);

t.test('exports from a streaming replica that may lag or be down', async t => {
  const databaseUrl = urlOf('replicated');
  const replica = await startReplica(server);
  t.teardown(replica.remove);
  const app = await startApp(t, {
    databaseUrl,
    env: {
      SNAPSHOT_DATABASE_URL: replica.url(databaseUrl),
      S3_ENDPOINT_ALLOWLIST: '127.0.0.1',
    },
  });
  const rowsOf = (version: string, count = 3) =>
    Array.from({ length: count }, (_, index) =>
      adoptionRow({ companyId: `c${index}`, companyName: version }),
    );
  const fileOf = (version: string, count = 3) =>
    exportHeader + exportPart(rowsOf(version, count), date);

  const ingest = async (id: string, version: string, count?: number) =>
    (await app.ingest(id, date, ingestBody(rowsOf(version, count)))).status;

  /** Creates an environment whose first snapshot the replica has. */
  async function createOnBoth(id: string): Promise<void> {
    await app.putEnvironment(id);
    await ingest(id, 'first');
    await replica.catchUp();
  }

  t.test('reads rows and registry of exports from the replica only', async t => {
    await createOnBoth('acme');
    t.equal((await app.download('acme', 'today')).text, fileOf('first'));
    const exporting = `select from pg_stat_activity
    where application_name = 'warehouse-export export' and datname = 'replicated'`;
    const count = async (url: string) => {
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      const { rowCount } = await client.query(exporting);
      await client.end();
      return rowCount;
    };
    t.ok(Number(await count(replica.url(databaseUrl))) > 0);
    t.equal(await count(databaseUrl), 0);
  });

  t.test('serves the previous snapshot completely while the replica lags', async t => {
    await createOnBoth('lagging');
    await replica.pause();
    t.equal(await ingest('lagging', 'second', 5), 200);
    const [listed] = (await app.call('/v1/environments/lagging/snapshots')).json.items;
    t.equal(listed.rowCount, 5, 'the list of snapshots is read from the primary');
    for (const time of [1, 2]) {
      const file = await app.download('lagging', 'today');
      t.equal(file.text, fileOf('first'), `time ${time}`);
      t.equal(file.headers['x-total-rows'], '3', 'header and rows are from one read view');
    }
    await replica.resume();
    await replica.catchUp();
    for (const time of [1, 2])
      t.equal((await app.download('lagging', 'today')).text, fileOf('second', 5), `time ${time}`);
  });

  t.test('shows a deleted snapshot until the replica applies the deletion', async t => {
    await createOnBoth('deleted');
    await replica.pause();
    const path = `/v1/environments/deleted/snapshots/${date}`;
    t.equal((await app.call(path, { method: 'DELETE' })).status, 204);
    t.equal((await app.download('deleted', 'today')).text, fileOf('first'));
    await replica.resume();
    await replica.catchUp();
    t.equal((await app.download('deleted', 'today')).text, exportHeader);
  });

  t.test('shows no data of an environment until the replica has it', async t => {
    await replica.pause();
    await app.putEnvironment('new');
    await ingest('new', 'new');
    t.equal((await app.download('new', 'today')).text, exportHeader);
    await replica.resume();
    await replica.catchUp();
    t.equal((await app.download('new', 'today')).text, fileOf('new'));
  });

  t.test('retries a scheduled run until the replica has its snapshot', needsS3, async t => {
    await app.putEnvironment('runs');
    const config = await makeConfig(app, 'runs');
    app.setNow('2026-03-03T00:00:30.000Z');
    t.teardown(() => app.setNow(testNow));
    await replica.pause();
    await ingest('runs', 'day');
    startExportWorker(t, app);
    const outcomes = () =>
      app.log.filter(line => line['msg'] === 'run').map(line => line['outcome']);
    await waitFor('the end of an attempt', () => outcomes().length > 0);
    const runs = `/v1/environments/runs/export-configs/${config.id}/runs`;
    t.not((await app.call(runs)).json.items[0].state, 'failed');
    await replica.resume();
    await replica.catchUp();
    await waitFor('a successful run', async () => {
      await hastenRetries(app.dependencies.pools.api);
      return (await app.call(runs)).json.items[0].state === 'successful';
    });
    t.equal(outcomes().at(0), 'retry');
    t.equal(outcomes().at(-1), 'successful');
    const [run] = (await app.call(runs)).json.items;
    t.equal((await readObject(s3Server().bucket, run.objectKey)).body.toString(), fileOf('day'));
  });

  t.test('answers 503 for exports only while the replica is down', async t => {
    await createOnBoth('alone');
    await replica.stop();
    const away = await app.download('alone', 'today');
    t.equal(away.status, 503);
    t.equal(away.json.code, 'unavailable');
    t.equal((await app.call('/v1/environments/alone/snapshots')).status, 200);
    t.equal(await ingest('alone', 'second'), 200);
    await replica.start();
    await replica.catchUp();
    t.equal((await app.download('alone', 'today')).text, fileOf('second'));
  });
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
    const companyName = 'x'.repeat(1_500);
    const body = ingestBody(
      Array.from({ length: 2_000 }, (_, index) =>
        adoptionRow({ companyId: `c${index}`, companyName }),
      ),
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
