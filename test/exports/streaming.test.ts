import t, { type Test } from 'tap';
import { adoptionRow, exportHeader, exportLine, ingestBody } from '../helpers/adoption-rows.ts';
import { startApp } from '../helpers/app.ts';
import { open } from '../helpers/http-client.ts';
import { liveMemoryMib } from '../helpers/live-memory.ts';
import { lowestOf } from '../helpers/lowest-of.ts';
import { createTestDatabase } from '../helpers/postgres.ts';
import { connectRaw, type RawConnection } from '../helpers/raw-http.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { longName, writeWideSnapshot } from '../helpers/wide-snapshot.ts';

/** Downloads of snapshots that are not rendered: COPY at the pace of the reader. */

const database = await createTestDatabase(t);
const { pool } = database;
const rows = 700;
/** Name of each company. */
const name = longName();
const app = await startApp(t, { databaseUrl: database.url });
await app.putEnvironment('acme', 'pro');
for (const environment of ['small', 'odd', 'old']) {
  await app.putEnvironment(environment, 'pro');
  await app.ingest(environment, '2026-03-01', ingestBody([adoptionRow()]));
}
const snapshot = { environmentId: 'acme', date: '2026-03-02', rows };
await writeWideSnapshot(pool, { ...snapshot, letter: name, nameBytes: 1 });
const line = exportLine(adoptionRow({ companyId: '00000001', companyName: name }), snapshot.date);
const fileBytes = exportHeader.length + rows * line.length;

const path = '/v1/environments/acme/exports/today.csv';
const authorization = { authorization: `Bearer ${testAdminToken}` };
const rawRequest = (version: string, ...headers: string[]) =>
  `GET ${path} HTTP/${version}\r\nHost: x\r\nAuthorization: Bearer ${testAdminToken}\r\n${headers.map(line => `${line}\r\n`).join('')}\r\n`;

/** Selects the export connections that are not idle. */
const ofBusyBackends = `
  from pg_stat_activity
  where datname = current_database() and state <> 'idle'
    and application_name ~ '^warehouse-export (export|session)$'`;

async function busyBackends(): Promise<{ wait_event: string | null }[]> {
  return (await pool.query(`select wait_event ${ofBusyBackends}`)).rows;
}

const untilNoneBusy = () =>
  waitFor('the end of all queries', async () => (await busyBackends()).length === 0);
/** Waits until Postgres blocks because the service does not read. */
const untilHeldBack = () =>
  waitFor('back-pressure', async () =>
    (await busyBackends()).some(({ wait_event }) => wait_event === 'ClientWrite'),
  );

t.afterEach(async () => {
  await waitFor(
    'the release of all download slots',
    () => app.dependencies.downloadLimit.active === 0,
  );
  await untilNoneBusy();
});

t.test('applies back-pressure to Postgres and buffers little for a slow reader', async t => {
  const before = liveMemoryMib();
  const response = await open(app.origin + path, { headers: authorization });
  response.pause();
  await untilHeldBack();
  const grownMib = liveMemoryMib() - before;
  t.ok(
    grownMib < 16,
    `${grownMib.toFixed(1)} MiB of a file of ${(fileBytes / 2 ** 20).toFixed(0)} MiB`,
  );

  let bytes = 0;
  for await (const chunk of response) bytes += chunk.length;
  t.equal(response.complete, true);
  t.equal(bytes, fileBytes);
});

/** Starts a query, disconnects its reader and expects the end of the query within a second. */
async function endsWithinASecond(
  t: Test,
  what: string,
  start: () => Promise<RawConnection>,
): Promise<void> {
  const tookMs = await lowestOf(3, 1_000, async () => {
    const { socket } = await start();
    const goneAt = performance.now();
    socket.destroy();
    await untilNoneBusy();
    return performance.now() - goneAt;
  });
  t.ok(tookMs < 1_000, `${what}: ${Math.round(tookMs)} ms`);
}

t.test('ends the query within a second when the reader disconnects', async t => {
  for (const [encoding, pause] of [
    ['identity', true],
    ['gzip', false],
  ] as const) {
    await endsWithinASecond(t, `${encoding}, ${pause ? 'paused' : 'running'}`, async () => {
      const connection = await connectRaw(app.port, 1);
      connection.socket.write(rawRequest('1.1', `Accept-Encoding: ${encoding}`));
      await waitFor('the query of the download', async () => (await busyBackends()).length === 1);
      if (pause) return connection;
      const { length } = connection.received();
      connection.resume();
      await waitFor('more of the file', () => connection.received().length > length);
      return connection;
    });
  }
});

t.test('ends the query when the reader disconnects before the first row', async t => {
  for (const table of ['snapshot_rows', 'snapshots']) {
    const locker = await pool.connect();
    await locker.query(`begin; lock table ${table} in access exclusive mode`);
    try {
      await endsWithinASecond(t, table, async () => {
        const connection = await connectRaw(app.port);
        connection.socket.write(rawRequest('1.1'));
        await waitFor('a query that waits for the lock', async () => {
          const { rows: waiting } = await pool.query(
            `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
          );
          return waiting.length === 1;
        });
        return connection;
      });
    } finally {
      await locker.query('rollback');
      locker.release();
    }
  }
});

t.test('resets the connection when a download fails after the first byte', async t => {
  const loggedBefore = app.log.length;
  for (const [encoding, keep] of [
    ['identity', 'keep-alive'],
    ['gzip', 'close'],
  ] as const) {
    const connection = await connectRaw(app.port, 1_000);
    connection.socket.write(
      rawRequest('1.1', `Accept-Encoding: ${encoding}`, `Connection: ${keep}`),
    );
    // Waits until the reader has paused. The header line arrives alone.
    await connection.waitFor(/^.{1000}/s);
    await waitFor('the query of the download', async () => {
      const { rowCount } = await pool.query(`select pg_terminate_backend(pid) ${ofBusyBackends}`);
      return rowCount === 1;
    });
    connection.resume();
    t.equal(await connection.closed, 'ECONNRESET', encoding);
    const text = connection.received().toString('latin1');
    t.match(text, /^HTTP\/1\.1 200 OK\r\n/, encoding);
    t.notOk(text.endsWith('0\r\n\r\n'), encoding);
  }
  const failed = app.log.slice(loggedBefore).filter(({ msg }) => msg === 'download failed');
  t.equal(failed.length, 2);
});

t.test('resets a download whose row count differs from the registry', async t => {
  for (const count of [0, 2]) {
    await pool.query(
      `update snapshots set row_count = $1, version = gen_random_uuid() where environment_id = 'odd'`,
      [count],
    );
    for (const headers of [undefined, { 'accept-encoding': 'gzip' }]) {
      const answer = app.call('/v1/environments/odd/exports/today.csv', {
        ...(headers && { headers }),
      });
      // A file this short fails before or after its first byte. It is never a complete answer with
      // 200.
      const status = await answer.then(
        ({ status }) => status,
        (error: NodeJS.ErrnoException) => error.code,
      );
      t.ok(status === 'ECONNRESET' || status === 500, String(status));
    }
    const said = app.log
      .map(line => JSON.stringify(line))
      .filter(line => line.includes('Row count mismatch'));
    t.match(said.at(-1), new RegExp(`expected ${count}, read 1.*repeatable read.*row_count`));
  }
});

t.test('sends the complete file over HTTP/1.0 and closes the connection', async t => {
  const connection = await connectRaw(app.port);
  connection.socket.write(rawRequest('1.0').replace('/acme/', '/old/'));
  t.equal(await connection.closed, 'end');
  const [head = '', body = ''] = connection.received().toString().split('\r\n\r\n');
  t.notMatch(head, /transfer-encoding/i);
  t.match(head, new RegExp(`content-length: ${body.length}\r\n`, 'i'));
  t.equal(body, (await app.download('old', 'today')).text);
});

t.test('sends two files over one keep-alive connection', async t => {
  const connection = await connectRaw(app.port);
  for (let count = 1; count <= 2; count += 1) {
    connection.socket.write(rawRequest('1.1').replace('/acme/', '/small/'));
    await connection.waitFor(new RegExp(`(?:[\\s\\S]*\\r\\n0\\r\\n\\r\\n){${count}}`));
  }
  connection.socket.destroy();
  t.equal(connection.received().toString().split('HTTP/1.1 200 OK').length, 3);
});

t.test('answers HEAD without reading rows or taking a slot', async t => {
  const locker = await pool.connect();
  await locker.query('begin; lock table snapshot_rows in access exclusive mode');
  const head = await app.call(path, { method: 'HEAD' });
  t.equal(head.status, 200);
  t.equal(head.headers['x-total-rows'], String(rows));
  await locker.query('rollback');
  locker.release();
});
