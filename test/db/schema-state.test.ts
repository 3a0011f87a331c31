import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { installJobQueue, runQueue } from '../../src/db/job-queue.ts';
import { migrateToLatest } from '../../src/db/migrator.ts';
import { startApp, type TestApp } from '../helpers/app.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { connectRaw } from '../helpers/raw-http.ts';
import { waitFor } from '../helpers/wait-for.ts';

/** Waits until readiness has this status. Probes share one look-up for a second. */
const becomesReady = (app: TestApp, status: number) =>
  waitFor(
    `the answer ${status} to the readiness probe`,
    async () => (await app.call('/health/ready')).status === status,
  );

t.test('readiness names npm run migrate until migrations have run, each once', async t => {
  const { url, pool, name } = await createTestDatabase(t);
  const empty = `${name}_${randomBytes(2).toString('hex')}`;
  await pool.query(`create database ${empty}`);
  t.teardown(() => pool.query(`drop database ${empty} with (force)`).then(() => {}));
  const databaseUrl = url.replace(name, empty);
  const app = await startApp(t, { databaseUrl });

  const before = await app.call('/health/ready');
  t.equal(before.status, 503);
  t.match(before.json.detail, /npm run migrate/);
  const list = await app.call('/v1/environments');
  t.equal(list.status, 503, 'a request that needs tables');
  t.match(list.json.detail, /npm run migrate/);

  const done = await Promise.all(Array.from({ length: 4 }, () => migrateToLatest(databaseUrl)));
  const files = fs.readdirSync(path.join(import.meta.dirname, '../../migrations'));
  const names = files.map(file => path.basename(file, '.ts')).sort();
  t.strictSame(done.flat().sort(), names, 'processes that start together apply each once');
  t.strictSame(await migrateToLatest(databaseUrl), [], 'another call migrates nothing');
  await becomesReady(app, 200);
  t.equal((await app.call('/v1/environments')).status, 200);
});

t.test('readiness names npm run migrate while the schema is older than the code', async t => {
  const { url, pool } = await createTestDatabase(t);
  const app = await startApp(t, { databaseUrl: url });
  t.equal((await app.call('/health/ready')).status, 200);

  await pool.query(`insert into kysely_migration values ('9999-of-a-later-version', '')`);
  t.equal((await app.call('/health/ready')).status, 200, 'the service accepts a newer schema');

  const { rows } = await pool.query(
    `delete from kysely_migration where name like '0007%' returning name`,
  );
  t.equal(rows.length, 1);
  await becomesReady(app, 503);
  const older = await app.call('/health/ready');
  t.equal(older.status, 503);
  t.match(older.json.detail, /npm run migrate/);
});

t.test('readiness names npm run migrate while a job queue is missing', async t => {
  const { url, pool } = await createTestDatabase(t);
  const app = await startApp(t, { databaseUrl: url });
  await pool.query(`delete from pgboss.queue where name = 'retention'`);
  const answer = await app.call('/health/ready');
  t.equal(answer.status, 503);
  t.match(answer.json.detail, /npm run migrate/);
});

t.test('answers 300 pipelined readiness probes with a few database queries', async t => {
  let queries = 0;
  const { url } = await createTestDatabase(t);
  const app = await startApp(t, {
    databaseUrl: url,
    adjust: dependencies => {
      dependencies.pools.api.on('acquire', () => {
        queries += 1;
      });
      return dependencies;
    },
  });
  const probes = 300;
  const connection = await connectRaw(app.port);
  t.teardown(() => connection.socket.destroy());
  connection.socket.write('GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(probes));
  const started = performance.now();
  const answered = () => connection.received().toString('latin1').split('HTTP/1.1 200 ').length - 1;
  await waitFor('the answers to all probes', () => answered() === probes, { limitMs: 120_000 });
  const seconds = (performance.now() - started) / 1000;
  t.ok(queries <= seconds + 2, `${queries} look-ups in ${seconds} s`);
});

t.test('restores the settings of the queues when it is installed again', async t => {
  const { url, pool } = await createTestDatabase(t);
  const read = async () =>
    (await pool.query('select * from pgboss.queue where name = $1', [runQueue])).rows.map(
      ({ updated_on: _updatedOn, ...row }) => row,
    );
  const [before] = await read();
  await pool.query(
    'update pgboss.queue set retry_limit = 1, heartbeat_seconds = null where name = $1',
    [runQueue],
  );
  await Promise.all([installJobQueue(url), installJobQueue(url)]);
  t.strictSame(await read(), [before]);
  t.match(before, { retry_limit: 14, heartbeat_seconds: 20, dead_letter: 'run-export-lost' });
});
