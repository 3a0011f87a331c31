import pg from 'pg';
import t, { type Test } from 'tap';
import { startPostgresServer } from '../../dev/postgres-server.ts';
import { migrateToLatest } from '../../src/db/migrator.ts';
import { adoptionRow, exportHeader, exportPart, ingestBody } from '../helpers/adoption-rows.ts';
import { startApp, startTestApp, testNow } from '../helpers/app.ts';
import type { Answer } from '../helpers/http-client.ts';
import { waitFor } from '../helpers/wait-for.ts';

/** More requests than database connections. */

t.setTimeout(300_000);

const today = testNow.slice(0, 10);
const rows = [adoptionRow()];
const file = exportHeader + exportPart(rows, today);

function expectRefusals(t: Test, answers: readonly Answer[]): void {
  for (const answer of answers) {
    t.ok([429, 503].includes(answer.status), `${answer.status} ${answer.text.slice(0, 200)}`);
    t.match(String(answer.headers['retry-after']), /^[1-9]\d*$/);
  }
}

t.test('answers 503 with Retry-After while all connections of a pool are in use', async t => {
  const app = await startTestApp(t);
  await app.putEnvironment('acme');
  t.equal((await app.ingest('acme', today, ingestBody(rows))).status, 201);
  const { pool } = app.database;
  const blocker = await pool.connect();
  await blocker.query('begin; lock table environments in access exclusive mode');
  const asked = Array.from({ length: 40 }, () => app.call('/v1/environments/acme'));
  await waitFor(
    '25 requests that wait for a connection',
    () => app.dependencies.pools.api.waitingCount >= 25,
  );
  const ready = await app.call('/health/live');
  t.equal(ready.status, 200);
  // Requests that wait for a connection are answered after 5 s. Those with a connection wait for
  // the lock.
  await waitFor(
    'the answers to all waiting requests',
    () => app.dependencies.pools.api.waitingCount === 0,
  );
  await blocker.query('rollback');
  blocker.release();
  const answers = await Promise.all(asked);
  const refused = answers.filter(({ status }) => status !== 200);
  t.equal(answers.length - refused.length, 10, 'requests with a connection succeed');
  expectRefusals(t, refused);
  t.equal(
    (await app.download('acme', 'today')).text,
    file,
    'downloads work again without a restart',
  );
});

t.test('answers 503 with Retry-After when Postgres has no connections left', async t => {
  const server = await startPostgresServer({
    settings: {
      max_connections: '12',
      superuser_reserved_connections: '0',
      reserved_connections: '0',
    },
  });
  t.teardown(server.remove);
  await migrateToLatest(server.url);
  const app = await startApp(t, { databaseUrl: server.url });
  await app.putEnvironment('acme');
  t.equal((await app.ingest('acme', today, ingestBody(rows))).status, 201);
  const others = await takeConnections(server.url);

  const paths = ['', '/exports', '/exports/today.csv', '/snapshots', '/export-configs'];
  const answers = await Promise.all(
    Array.from({ length: 60 }, (_, index) =>
      app.call(`/v1/environments/acme${paths[index % paths.length]}`),
    ),
  );
  const refused = answers.filter(({ status }) => status !== 200);
  t.ok(refused.length > 0, 'some requests found no connection');
  expectRefusals(t, refused);
  for (const { status, text } of answers.filter((_, index) => index % paths.length === 2)) {
    if (status === 200) t.equal(text, file);
  }
  t.comment(`${refused.length} of ${answers.length} requests were answered 429 or 503`);
  for (const other of others) await other.end();
  await waitFor(
    'a download without a restart',
    async () => (await app.download('acme', 'today')).text === file,
  );
  await waitFor(
    'an ingest without a restart',
    async () => (await app.ingest('acme', today, ingestBody(rows))).status === 200,
  );
});

/** Connects until Postgres refuses. The service keeps the connections that it has. */
async function takeConnections(url: string): Promise<pg.Client[]> {
  const taken: pg.Client[] = [];
  while (true) {
    const client = new pg.Client({ connectionString: url });
    client.on('error', () => {});
    try {
      await client.connect();
    } catch (error) {
      // too_many_connections
      if (error instanceof pg.DatabaseError && error.code === '53300') return taken;
      throw error;
    }
    taken.push(client);
  }
}
