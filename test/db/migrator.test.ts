import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import pg from 'pg';
import t from 'tap';
import { installJobQueue, runQueue } from '../../src/db/job-queue.ts';
import { migrateToLatest } from '../../src/db/migrator.ts';
import { createTestDatabase } from '../helpers/postgres.ts';

const adminUrl = process.env['TEST_POSTGRES_URL'] ?? '';
const files = fs.readdirSync(path.join(import.meta.dirname, '../../migrations'));
const names = files.map(file => path.basename(file, '.ts')).sort();

t.test('migrates an empty database once if several processes start together', async t => {
  const admin = new pg.Client({ connectionString: adminUrl });
  await admin.connect();
  const name = `whx_migrate_${randomBytes(6).toString('hex')}`;
  await admin.query(`create database ${name}`);
  try {
    const url = new URL(adminUrl);
    url.pathname = `/${name}`;
    const done = await Promise.all(Array.from({ length: 4 }, () => migrateToLatest(url.href)));
    t.strictSame(done.flat().sort(), names);
    t.equal(
      done.filter(migrated => migrated.length > 0).length,
      1,
      'one process ran all migrations',
    );
    t.strictSame(await migrateToLatest(url.href), [], 'another call migrates nothing');
  } finally {
    await admin.query(`drop database ${name}`);
    await admin.end();
  }
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
