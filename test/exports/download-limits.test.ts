import type { IncomingMessage } from 'node:http';
import t, { type Test } from 'tap';
import { createConcurrencyLimit } from '../../src/shared/concurrency-limit.ts';
import { startTestApp } from '../helpers/app.ts';
import { writeDenseSnapshot } from '../helpers/dense-snapshot.ts';
import { open } from '../helpers/http-client.ts';
import { renderAll } from '../helpers/render-snapshots.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';

t.setTimeout(600_000);

/** Limits of this test. The defaults would take long to reach. */
const total = 12;
const perEnvironment = 10;
const app = await startTestApp(t, {
  adjust: dependencies =>
    Object.assign(dependencies, {
      downloadLimit: createConcurrencyLimit({
        total,
        perEnvironment,
        code: 'too_many_downloads',
        what: 'downloads',
      }),
    }),
});
const { downloadLimit, sessionLimit } = app.dependencies;
for (const environmentId of ['one', 'two', 'three', 'fresh']) {
  await app.putEnvironment(environmentId, 'pro');
  // More than all buffers between the service and a stalled reader hold.
  const rows = environmentId === 'three' ? 10 : 10_000;
  const snapshot = { environmentId, date: '2026-03-02', rows };
  if (environmentId === 'fresh') await renderAll(app);
  await writeDenseSnapshot(app.database.pool, snapshot);
}

const untilNoneActive = () => waitFor('the end of all downloads', () => downloadLimit.active === 0);

/** Creates readers of a test, which request files without reading them. */
function createReaders(t: Test) {
  const readers: IncomingMessage[] = [];
  t.teardown(async () => {
    for (const reader of readers) reader.destroy();
    await untilNoneActive();
  });
  return {
    readers,
    /** Returns the status of the answer. */
    async stall(environmentId: string): Promise<number> {
      const path = `/v1/environments/${environmentId}/exports/today.csv`;
      const headers = { authorization: `Bearer ${testAdminToken}` };
      const response = await open(app.origin + path, { headers });
      response.on('error', () => {});
      response.pause();
      readers.push(response);
      return response.statusCode ?? 0;
    },
  };
}

t.test('limits downloads at once', async t => {
  const { readers, stall } = createReaders(t);

  await t.test('limits the downloads of an environment and of the process', async t => {
    for (let count = 1; count <= perEnvironment; count += 1) t.equal(await stall('one'), 200);
    const refused = await app.download('one', 'today');
    t.equal(refused.status, 429);
    t.equal(refused.json.code, 'too_many_downloads');
    t.match(String(refused.headers['retry-after']), /^[1-9]\d*$/);
    t.equal((await app.call('/v1/environments/one/exports/today.csv.gz')).status, 429);

    for (let count = perEnvironment; count < total; count += 1) t.equal(await stall('two'), 200);
    t.equal(
      (await app.download('three', 'today')).status,
      429,
      'the limit of the process is reached',
    );
  });

  await t.test('holds no database connection for stalled readers', async t => {
    await waitFor('the end of all queries', async () => {
      const { rows } = await app.database.pool.query(
        `select from pg_stat_activity where datname = current_database()
           and application_name ~ 'warehouse-export (export|session)' and state <> 'idle'`,
      );
      return rows.length === 0;
    });
    t.equal(downloadLimit.active, total);
  });

  await t.test('serves short requests while all download slots are taken', async t => {
    for (const [path, method] of [
      ['/health/ready', 'GET'],
      ['/v1/environments/three/exports', 'GET'],
      ['/v1/environments/three/exports/today.csv', 'HEAD'],
    ] as const) {
      t.equal((await app.call(path, { method })).status, 200, path);
    }
  });

  await t.test('releases the slot of a download that ends or is aborted', async t => {
    for (const reader of readers.splice(0, 5)) reader.destroy();
    await waitFor('the end of 5 downloads', () => downloadLimit.active === total - 5);
    t.equal((await app.download('three', 'today')).status, 200);
    for (const reader of readers.splice(0, 2)) for await (const _chunk of reader);
    await waitFor('the end of 2 more downloads', () => downloadLimit.active === total - 7);
  });
});

t.test('allows 8 downloads of snapshots that are not rendered in an environment', async t => {
  const { readers, stall } = createReaders(t);
  for (let count = 1; count <= 8; count += 1) t.equal(await stall('fresh'), 200);
  t.equal(sessionLimit.active, 8);
  const { sessionPool } = app.dependencies;
  const others = Array.from({ length: sessionPool.options.max - 8 }, () => sessionPool.connect());
  const refused = await app.download('fresh', 'today');
  t.equal(refused.status, 429, 'without a connection');
  t.equal(refused.json.code, 'too_many_downloads');
  for (const client of await Promise.all(others)) client.release();
  t.equal((await app.download('three', 'today')).status, 200);
  for (const reader of readers) reader.destroy();
  await waitFor('the release of all sessions', () => sessionLimit.active === 0);
  await untilNoneActive();
});

t.test('releases the place of a refused or failed request', async t => {
  t.equal(downloadLimit.active, 0);
  await app.putEnvironment('free', 'free');
  for (let count = 0; count <= total; count += 1) {
    t.equal((await app.download('free', 'today')).status, 403);
    t.equal((await app.download('three', 'nonsense')).status, 400);
  }
  await untilNoneActive();
});
