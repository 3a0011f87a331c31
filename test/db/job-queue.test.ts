import t from 'tap';
import { installJobQueue, runQueue } from '../../src/db/job-queue.ts';
import { migrateToLatest } from '../../src/db/migrator.ts';
import { createTestDatabase } from '../helpers/postgres.ts';

t.test('installs the job queue while several processes migrate an empty database', async t => {
  const { url, pool, name } = await createTestDatabase(t);
  const empty = `${name}_empty`;
  await pool.query(`create database ${empty} template template0`);
  t.teardown(() => pool.query(`drop database ${empty} with (force)`).then(() => {}));
  const emptyUrl = url.replace(name, empty);
  const migrated = await Promise.all([
    migrateToLatest(emptyUrl),
    migrateToLatest(emptyUrl),
    migrateToLatest(emptyUrl),
  ]);
  t.equal(migrated.flat().length, new Set(migrated.flat()).size, 'each migration ran once');
  t.ok(migrated.flat().length > 2);
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
