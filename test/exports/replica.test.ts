import pg from 'pg';
import t from 'tap';
import { startPostgresServer } from '../../dev/postgres-server.ts';
import { migrateToLatest } from '../../src/db/migrator.ts';
import { adoptionRow, exportHeader, exportPart, ingestBody } from '../helpers/adoption-rows.ts';
import { startApp, testNow } from '../helpers/app.ts';
import { makeConfig, startExportWorker } from '../helpers/export-configs.ts';
import { hastenRetries } from '../helpers/hasten-retries.ts';
import { startReplica } from '../helpers/postgres-replica.ts';
import { needsS3, readObject, s3Server } from '../helpers/s3.ts';
import { waitFor } from '../helpers/wait-for.ts';

/** Exports read from a real streaming replica (`SNAPSHOT_DATABASE_URL`) that may lag or be down. */

const primary = await startPostgresServer();
t.teardown(primary.remove);
await migrateToLatest(primary.url);
const replica = await startReplica(primary);
t.teardown(replica.remove);
const app = await startApp(t, {
  databaseUrl: primary.url,
  env: {
    SNAPSHOT_DATABASE_URL: replica.url(primary.url),
    S3_ENDPOINT_ALLOWLIST: '127.0.0.1',
  },
});

const today = '2026-03-02';
const rowsOf = (version: string, count = 3) =>
  Array.from({ length: count }, (_, index) =>
    adoptionRow({ companyId: `c${index}`, companyName: version }),
  );
const fileOf = (version: string, count = 3) =>
  exportHeader + exportPart(rowsOf(version, count), today);

const ingest = async (id: string, version: string, count?: number) =>
  (await app.ingest(id, today, ingestBody(rowsOf(version, count)))).status;

/** Creates an environment whose first snapshot the replica has. */
async function createOnBoth(id: string): Promise<void> {
  await app.putEnvironment(id);
  await ingest(id, 'first');
  await replica.catchUp();
}

t.test('reads rows and registry of exports from the replica only', async t => {
  await createOnBoth('acme');
  t.equal((await app.download('acme', 'today')).text, fileOf('first'));
  const exporting = `select from pg_stat_activity where application_name = 'warehouse-export export'`;
  const count = async (url: string) => {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    const { rowCount } = await client.query(exporting);
    await client.end();
    return rowCount;
  };
  t.ok(Number(await count(replica.url(primary.url))) > 0);
  t.equal(await count(primary.url), 0);
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
  const path = `/v1/environments/deleted/snapshots/${today}`;
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
  const outcomes = () => app.log.filter(line => line['msg'] === 'run').map(line => line['outcome']);
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
