import pg from 'pg';
import t from 'tap';
import { createPool } from '../../src/db/connect.ts';
import { isDatabaseUnavailable } from '../../src/db/errors.ts';
import { createTestDatabase } from '../helpers/postgres.ts';

const database = await createTestDatabase(t);
const broken: Error[] = [];
const pool = createPool({
  url: database.url,
  applicationName: 'under test',
  maxConnections: 2,
  statementTimeoutMs: 1_234,
  onIdleError: error => broken.push(error),
});
t.teardown(() => pool.end());

t.test('gives out a connection with its time limit set and no query in progress', async t => {
  const warnings: string[] = [];
  const listen = (warning: Error) => warnings.push(warning.message);
  process.on('warning', listen);
  const { rows } = await pool.query('show statement_timeout');
  t.equal(rows[0].statement_timeout, '1234ms');
  await new Promise(resolve => setImmediate(resolve));
  process.off('warning', listen);
  t.strictSame(warnings, []);
});

t.test('returns dates as text and counts as numbers', async t => {
  const { rows } = await pool.query({
    text: `select '2026-03-01'::date as day, 5000000000::bigint as count, '{2026-03-01}'::date[] as days`,
  });
  t.equal(rows[0].day, '2026-03-01');
  t.equal(rows[0].count, 5_000_000_000);
});

t.test('treats a statement timeout as unavailability, not as an internal error', async t => {
  const error = await pool.query('select pg_sleep(30)').then(
    () => null,
    (thrown: unknown) => thrown,
  );
  t.ok(isDatabaseUnavailable(error));
});

t.test('reports and replaces a connection that breaks while it is idle', async t => {
  await pool.query('select 1');
  const killed = await database.pool.query(
    `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'under test'`,
  );
  t.ok(killed.rowCount);
  while (broken.length === 0) await new Promise(resolve => setImmediate(resolve));
  t.equal((await pool.query('select 1 as one')).rows[0].one, 1);
});

t.test('fails only the query whose connection breaks', async t => {
  const error = await pool.query('select pg_terminate_backend(pg_backend_pid())').then(
    () => null,
    (thrown: unknown) => thrown,
  );
  t.ok(isDatabaseUnavailable(error));
  t.equal((await pool.query('select 1 as one')).rows[0].one, 1);
});

t.test('treats an unreachable server as unavailability', async t => {
  const nowhere = createPool({
    url: 'postgres://nobody@127.0.0.1:1/none',
    applicationName: 'under test',
    maxConnections: 1,
    statementTimeoutMs: 0,
    onIdleError: () => {},
  });
  const error = await nowhere.query('select 1').catch((thrown: unknown) => thrown);
  t.ok(isDatabaseUnavailable(error));
  await nowhere.end();
});

t.test('does not treat SQL errors and unknown errors as unavailability', async t => {
  const client = await pool.connect();
  for (const text of ['select 1/0', 'select nothing', 'selec', `select 'x'::int`]) {
    const error = await client.query(text).catch((thrown: unknown) => thrown);
    t.type(error, pg.DatabaseError, text);
    t.notOk(isDatabaseUnavailable(error), text);
  }
  client.release();
  for (const thrown of [
    null,
    undefined,
    'ECONNREFUSED',
    new Error('other'),
    { code: 'ECONNREFUSED' },
  ]) {
    t.notOk(isDatabaseUnavailable(thrown));
  }
});
