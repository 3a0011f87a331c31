import { randomBytes } from 'node:crypto';
import t from 'tap';
import { migrateToLatest } from '../../src/db/migrator.ts';
import { startApp, type TestApp } from '../helpers/app.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { eventually } from '../helpers/raw-http.ts';

/** Waits until readiness has this status. Probes share one look-up for a second. */
const becomesReady = (app: TestApp, status: number) =>
  eventually(async () => (await app.call('/health/ready')).status === status, `ready ${status}`);

t.test('readiness names npm run migrate while migrations are pending', async t => {
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

  await migrateToLatest(databaseUrl);
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
