import pg from 'pg';
import t from 'tap';
import { startPostgresServer } from '../../dev/postgres-server.ts';
import { migrateToLatest } from '../../src/db/migrator.ts';
import { selectQueueState } from '../../src/export-runs/select-queue-state.ts';
import { createPrometheusMetrics } from '../../src/observability/prometheus.ts';
import { adoptionRow, ingestBody, ingestColumns } from '../helpers/adoption-rows.ts';
import { startApp } from '../helpers/app.ts';
import { connectRaw, eventually } from '../helpers/raw-http.ts';
import { readMetrics } from '../helpers/read-metrics.ts';
import { testAdminToken } from '../helpers/secrets.ts';
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
        await connection.until(/\r\n\r\n/);
        downloads.push({ what: `HTTP/${version}, ${encoding}`, connection });
      }
      const ingest = await connectRaw(app.port);
      const start = `${ingestColumns.join(',')}\n`;
      ingest.socket.write(
        `PUT /v1/environments/acme/snapshots/2026-03-01 HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nAuthorization: Bearer ${testAdminToken}\r\nContent-Length: 1000000\r\n\r\n${start}`,
      );
      await eventually(() => app.dependencies.ingestLimit.active === 1);

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
      await eventually(
        async () => (await metricsOf()).get('whx_database_up') === 0,
        'metric whx_database_up is 0',
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
      await eventually(
        async () => (await app.call('/health/ready')).status === 200,
        'the service is ready again',
      );
      await eventually(
        async () => (await metricsOf()).get('whx_slots_late{waiting_for="run"}') === 0,
        'metric whx_slots_late is reported again',
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
      await eventually(
        () => app.dependencies.downloadLimit.active + app.dependencies.ingestLimit.active === 0,
      );
    },
  );
}
