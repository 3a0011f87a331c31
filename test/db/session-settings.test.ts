import { randomBytes } from 'node:crypto';
import pg from 'pg';
import t from 'tap';
import { createPool } from '../../src/db/connect.ts';
import { isDatabaseUnavailable } from '../../src/db/errors.ts';
import { retentionQueue, tickQueue } from '../../src/db/job-queue.ts';
import { migrateToLatest } from '../../src/db/migrator.ts';
import { enqueueDue } from '../../src/export-runs/enqueue-due.sql.ts';
import { tidyUp } from '../../src/retention/tidy-up.ts';
import { adoptionRow, ingestBody } from '../helpers/adoption-rows.ts';
import { startApp, type TestApp } from '../helpers/app.ts';
import { startExportWorker } from '../helpers/export-configs.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { waitFor } from '../helpers/wait-for.ts';

t.setTimeout(600_000);

/** Defaults of a database or a role that must not change any answer. */
const hostileProfiles: readonly Readonly<Record<string, string>>[] = [
  {
    DateStyle: `'German'`,
    array_nulls: 'off',
    default_transaction_isolation: `'serializable'`,
    statement_timeout: '1000',
    search_path: `''`,
  },
  {
    DateStyle: `'SQL, DMY'`,
    TimeZone: `'Pacific/Chatham'`,
    bytea_output: `'escape'`,
    standard_conforming_strings: 'off',
    default_transaction_isolation: `'repeatable read'`,
    lock_timeout: '1',
    search_path: `'pg_catalog'`,
  },
  {
    DateStyle: `'Postgres, MDY'`,
    IntervalStyle: `'sql_standard'`,
    quote_all_identifiers: 'on',
    transform_null_equals: 'on',
    default_transaction_deferrable: 'on',
    idle_in_transaction_session_timeout: '1',
    client_encoding: `'LATIN1'`,
  },
  {
    DateStyle: `'ISO, DMY'`,
    IntervalStyle: `'iso_8601'`,
    extra_float_digits: '-15',
    idle_session_timeout: '500',
    search_path: `'elsewhere'`,
    row_security: 'off',
    exit_on_error: 'on',
    backslash_quote: 'off',
  },
];

const rows = [
  adoptionRow({
    companyName: 'Łódź \\ "€"',
    firstUsed: '2025-12-05T23:30:00.120Z',
    lastUsed: '2026-02-28T00:00:00.001Z',
    segmentNames: ['All', 'Paying, EU'],
    segmentIds: ['s1', 's2'],
  }),
  adoptionRow({ companyId: 'c2', companyName: null, firstSeen: '2025-01-02T03:04:05.678Z' }),
];
const today = '2026-03-02';

/**
 * Calls every kind of route. Returns the answers without the values that differ from run to run.
 */
async function askEverything(app: TestApp, pool: pg.Pool): Promise<string[]> {
  const answers: string[] = [];
  const id = `acme-${randomBytes(4).toString('hex')}`;
  const ask = async (method: string, path: string, json?: object) => {
    const options = json === undefined ? { method } : { method, json };
    const { status, text } = await app.call(`/v1${path}`, options);
    answers.push(`${method} ${path}: ${status} ${masked(text)}`);
  };
  await ask('PUT', `/environments/${id}`, { name: 'Łódź', plan: 'enterprise' });
  for (const date of ['2026-02-28', today, today]) {
    const { status, text } = await app.ingest(id, date, ingestBody(rows));
    answers.push(`PUT ${date}: ${status} ${masked(text)}`);
  }
  const invalid = await app.ingest(id, today, ingestBody(rows).replace('2025-01-02', '2025-13-02'));
  answers.push(`invalid: ${invalid.status} ${masked(invalid.text)}`);
  await ask('POST', `/environments/${id}/api-keys`, {
    name: 'k',
    scopes: ['exports:read', 'snapshots:write'],
    expiresAt: '2027-01-02T03:04:05.000Z',
  });
  await pool.query(
    `insert into public.export_configs (environment_id, id, name, enabled, schedule, provider, bucket,
       region, key, endpoint, access_key_id, sealed_secret, compression, manifest, active_since,
       created_at, updated_at)
     values ($1, 'c', 'c', true, 'daily', 'custom', 'b', 'r', '', 'https://s3.example.com', 'id',
       'sealed', 'none', false, '2026-02-20T12:00:00Z', '2026-02-20T12:00:00Z', '2026-02-20T12:00:00Z')`,
    [id],
  );
  const tick = await enqueueDue(
    app.dependencies.db,
    app.dependencies.jobs,
    new Date(`${today}T10:00:00Z`),
  );
  answers.push(`tick: ${JSON.stringify(tick)}`);
  await ask('POST', `/environments/${id}/export-configs/c/runs`, { snapshotDate: today });
  let downloads = 0;
  for (const path of [
    '/environments',
    `/environments/${id}`,
    `/environments/${id}/snapshots`,
    `/environments/${id}/exports`,
    `/environments/${id}/exports/today.csv`,
    `/environments/${id}/exports/30-days-daily.csv`,
    `/environments/${id}/exports/3-months-weekly.csv`,
    `/environments/${id}/api-keys`,
    `/environments/${id}/export-configs`,
    `/environments/${id}/export-configs/c/status`,
    `/environments/${id}/export-configs/c/runs`,
    `/audit-log?environmentId=${id}`,
  ]) {
    await ask('GET', path);
    if (!path.endsWith('.csv')) continue;
    downloads += 1;
    // Written after the end of the download.
    await waitFor('the audit line of the download', async () => {
      const { rowCount } = await pool.query(
        `select from public.audit_log where environment_id = $1 and action = 'export.downloaded'`,
        [id],
      );
      return rowCount === downloads;
    });
  }
  await ask('POST', `/environments/${id}/download-links`, { aggregation: 'today' });
  const { retention } = app.config;
  const tidied = await tidyUp(
    app.dependencies.db,
    retention,
    app.dependencies.now(),
    new AbortController().signal,
  );
  answers.push(`retention: ${JSON.stringify(tidied)}`);
  await ask('DELETE', `/environments/${id}`);
  for (const [name, pool] of Object.entries(app.dependencies.pools)) {
    const { rows } = await pool.query(
      `select current_setting('statement_timeout') as statement, current_setting('lock_timeout') as lock`,
    );
    answers.push(`timeouts of ${name}: ${JSON.stringify(rows[0])}`);
  }
  return answers.map(answer => answer.replaceAll(id, 'acme'));
}

/** Replaces random ids, secrets and instants near the current time. */
function masked(text: string): string {
  return text
    .replaceAll(/[\da-f]{8}-[\da-f]{4}-[\da-f]{4}-[\da-f]{4}-[\da-f]{12}/g, '<uuid>')
    .replaceAll(/whx_\w+/g, '<key>')
    .replaceAll(/127\.0\.0\.1:\d+\/v1\/downloads\/[^"]+/g, '<link>')
    .replaceAll(/"(id|targetId|keyId|etag|nextCursor)":"(?:[^"\\]|\\.)*"/g, '"$1":"<id>"')
    .replaceAll(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/g, instant =>
      Math.abs(Date.parse(instant) - Date.now()) < 600_000 ? '<now>' : instant,
    );
}

const plain = await createTestDatabase(t);
await plain.pool.query('create schema elsewhere');
const app = await startApp(t, { databaseUrl: plain.url });
const expected = await askEverything(app, plain.pool);

/** Makes the service open new connections, which take the settings of the database. */
async function reconnect(): Promise<void> {
  await plain.pool.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
     where datname = current_database() and application_name ~ 'warehouse-export'`,
  );
  const pools = Object.values(app.dependencies.pools);
  await waitFor('the end of all connections', () => pools.every(pool => pool.totalCount === 0));
}

t.test('the answers without hostile settings are correct', async t => {
  const failed = expected.filter(answer => !/: (200|201|204|\{)/.test(answer));
  t.equal(failed.length, 2, failed.join('\n'));
  t.match(failed[0], /^invalid: 422/);
  t.match(failed[1], /runs: 409/, 'the run of the tick has not finished');
});

// The next test has the settings of the last profile.
for (const profile of hostileProfiles.slice(0, -1)) {
  const names = Object.entries(profile).map(entry => entry.join(' = '));
  t.test(`gives the same answers with ${names.join(', ')} set on the database`, async t => {
    for (const [name, value] of Object.entries(profile)) {
      await plain.pool.query(`alter database ${plain.name} set ${name} = ${value}`);
    }
    t.teardown(() => plain.pool.query(`alter database ${plain.name} reset all`).then(() => {}));
    await reconnect();
    t.strictSame(await askEverything(app, plain.pool), expected);
    t.equal((await app.call('/health/ready')).status, 200);
  });
}

t.test('migrate, worker and job queue work with every setting on a role', async t => {
  const database = await createTestDatabase(t);
  const role = `whx_role_${randomBytes(4).toString('hex')}`;
  const empty = `${database.name}_empty`;
  await database.pool.query(`create role ${role} login superuser`);
  await database.pool.query(`create database ${empty}`);
  t.teardown(async () => {
    await database.pool.query(`drop database ${empty} with (force)`);
    await database.pool.query(`drop role ${role}`);
  });
  for (const [name, value] of Object.entries(Object.assign({}, ...hostileProfiles))) {
    await database.pool.query(`alter role ${role} set ${name} = ${value}`);
  }
  const url = new URL(database.url);
  url.username = role;
  url.pathname = `/${empty}`;
  t.ok((await migrateToLatest(url.href)).length > 5);
  t.strictSame(await migrateToLatest(url.href), []);

  const pool = new pg.Pool({
    connectionString: database.url.replace(database.name, empty),
    max: 1,
  });
  // Dropping the database may end a connection that is still being closed.
  pool.on('error', () => {});
  t.teardown(() => pool.end());
  const app = await startApp(t, { databaseUrl: url.href });
  t.strictSame(await askEverything(app, pool), expected);
  const worker = startExportWorker(t, app);
  for (const queue of [tickQueue, retentionQueue]) {
    const id = await app.dependencies.jobs.send(queue, {});
    worker.wake();
    const state = async () =>
      (await pool.query('select state from pgboss.job where id = $1', [id])).rows[0]?.state;
    await waitFor(`the end of a job of ${queue}`, async () => (await state()) === 'completed', {
      limitMs: 60_000,
    });
  }
});

t.test('opens the connections of a pool', async t => {
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
    await waitFor('the report of the broken connection', () => broken.length > 0);
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
});
