import net, { type AddressInfo } from 'node:net';
import type pg from 'pg';
import { to as copyTo } from 'pg-copy-streams';
import t from 'tap';
import { createPool } from '../../src/db/connect.ts';
import { copyOut } from '../../src/exports/copy-reader.ts';
import { createTestDatabase } from '../helpers/postgres.ts';

const database = await createTestDatabase(t);

const copies = {
  'no rows': 'select 1 where false',
  'empty rows': `select '' from generate_series(1, 10000)`,
  'short rows': 'select n, md5(n::text) from generate_series(1, 5000) as n',
  'rows longer than what comes at once': `select n, repeat(md5(n::text), 10000) from generate_series(1, 8) as n`,
  'rows of every length': `select repeat('x', n) from generate_series(0, 700) as n`,
};

/** A connection that carries the server's bytes in pieces of these sizes, in turns. */
async function throughPieces(
  t: { teardown(handler: () => Promise<void>): void },
  sizes: readonly number[],
): Promise<pg.Pool> {
  const server = net.createServer(socket => {
    const { hostname, port } = new URL(database.url);
    const upstream = net.connect(Number(port), hostname);
    socket.setNoDelay(true);
    socket.pipe(upstream);
    let turn = 0;
    upstream.on('data', async chunk => {
      upstream.pause();
      for (let at = 0; at < chunk.length; ) {
        const size = sizes[turn++ % sizes.length] ?? 1;
        // Written and gone before the next, or the kernel would join them again.
        await new Promise(resolve => socket.write(chunk.subarray(at, at + size), resolve));
        at += size;
        if (size < 100) await new Promise(setImmediate);
      }
      upstream.resume();
    });
    for (const [one, other] of [
      [socket, upstream],
      [upstream, socket],
    ] as const) {
      one.on('close', () => other.destroy());
      one.on('error', () => other.destroy());
    }
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  const url = new URL(database.url);
  url.host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const pool = poolOf(url.href);
  t.teardown(async () => {
    await pool.end();
    server.close();
  });
  return pool;
}

function poolOf(url: string): pg.Pool {
  return createPool({
    url,
    applicationName: 'copy reader test',
    maxConnections: 1,
    statementTimeoutMs: 0,
    onIdleError: () => {},
  });
}

async function collect(bytes: AsyncIterable<Buffer>): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of bytes) pieces.push(piece);
  return Buffer.concat(pieces);
}

for (const [how, sizes] of [
  ['as they come', null],
  ['byte by byte and in odd pieces', [1, 2, 3, 4, 5, 6, 7, 1_000, 4_096]],
] as const) {
  t.test(`the same bytes as pg-copy-streams reads, ${how}`, async t => {
    const pool = sizes === null ? poolOf(database.url) : await throughPieces(t, sizes);
    if (sizes === null) t.teardown(() => pool.end());
    const client = await pool.connect();
    for (const [what, select] of Object.entries(copies)) {
      const sql = `copy (${select}) to stdout (format csv)`;
      const copy = copyOut(client, sql);
      const bytes = await collect(copy.bytes);
      const expected = database.pool.connect().then(async reference => {
        const stream = reference.query(copyTo(sql));
        const read = await collect(stream as AsyncIterable<Buffer>);
        await reference.query('select');
        reference.release();
        return { read, rowCount: stream.rowCount };
      });
      t.ok(bytes.equals((await expected).read), what);
      t.equal(copy.rowCount, (await expected).rowCount, what);
      t.strictSame(
        (await client.query('select 1 as one')).rows,
        [{ one: 1 }],
        'the connection is pg’s again',
      );
    }
    client.release();
  });
}

t.test('what Postgres says in between is passed over', async t => {
  const pool = poolOf(database.url);
  t.teardown(() => pool.end());
  const client = await pool.connect();
  await client.query(`create function pg_temp.noisy(n int) returns int language plpgsql as $$
    begin raise notice 'at %', n; return n; end $$`);
  const copy = copyOut(
    client,
    'copy (select pg_temp.noisy(n) from generate_series(1, 2000) as n) to stdout',
  );
  const lines = (await collect(copy.bytes)).toString().split('\n');
  t.equal(lines.length, 2_001);
  t.equal(lines[1_999], '2000');
  client.release();
});

t.test(
  'an error before, among and after the rows is thrown, and the connection goes on',
  async t => {
    const pool = poolOf(database.url);
    t.teardown(() => pool.end());
    const client = await pool.connect();
    for (const sql of [
      'copy (select nothing) to stdout',
      'copy (select 1 / (50000 - n) from generate_series(1, 100000) as n) to stdout',
      'copy (select 1 / (100000 - n) from generate_series(1, 100000) as n) to stdout',
    ]) {
      await t.rejects(collect(copyOut(client, sql).bytes), { code: /^(42703|22012)$/ }, sql);
      t.strictSame((await client.query('select 1 as one')).rows, [{ one: 1 }]);
    }
    client.release();
  },
);

t.test('a connection that is lost ends it with an error, also while nobody asks', async t => {
  const pool = poolOf(database.url);
  t.teardown(() => pool.end());
  for (const isAsking of [true, false]) {
    const client = await pool.connect();
    const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
    const { bytes } = copyOut(
      client,
      `copy (select repeat('x', 1000) from generate_series(1, 1000000)) to stdout`,
    );
    await bytes.next();
    const rest = isAsking ? collect(bytes) : null;
    rest?.catch(() => {});
    await database.pool.query('select pg_terminate_backend($1)', [rows[0]?.pid]);
    await t.rejects(rest ?? collect(bytes));
    client.release(true);
  }
});
