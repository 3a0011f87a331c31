import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { createRenderTurns } from '../../src/exports/render-turns.ts';
import { startTestApp } from '../helpers/app.ts';
import { fillSnapshot } from '../helpers/fill-snapshot.ts';
import { open } from '../helpers/http-client.ts';

const signal = new AbortController().signal;

/** Rows that come when the test says so. */
function source() {
  const begun = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<void>();
  async function* rows(): AsyncGenerator<Buffer> {
    begun.resolve();
    yield Buffer.from('a\n');
    await ended.promise;
    yield Buffer.from('b\n');
  }
  let hasBegun = false;
  void begun.promise.then(() => {
    hasBegun = true;
  });
  return { rows, begun: begun.promise, end: ended.resolve, hasBegun: () => hasBegun };
}

async function readAll(bytes: AsyncGenerator<Buffer>): Promise<string> {
  let text = '';
  for await (const piece of bytes) text += piece.toString();
  return text;
}

t.test('so many at once, the others in the order in which they came', async t => {
  const turns = createRenderTurns({ atOnce: 2 });
  const sources = Array.from({ length: 4 }, source);
  const read = sources.map(({ rows }) => readAll(turns.inTurn(rows, signal)));
  await delay(50);
  t.strictSame(
    sources.map(({ hasBegun }) => hasBegun()),
    [true, true, false, false],
  );
  t.equal(turns.waiting, 2);
  sources[1]?.end();
  await sources[2]?.begun;
  t.strictSame(
    sources.map(({ hasBegun }) => hasBegun()),
    [true, true, true, false],
  );
  for (const { end } of sources) end();
  t.strictSame(await Promise.all(read), Array(4).fill('a\nb\n'));
  t.equal(turns.waiting, 0);
});

t.test('a turn ends with its reader, however that ends', async t => {
  const turns = createRenderTurns({ atOnce: 1 });
  const first = turns.inTurn(source().rows, signal);
  await first.next();
  await first.return(undefined);
  const broken = turns.inTurn(async function* () {
    yield Buffer.from('a');
    throw new Error('broken');
  }, signal);
  await t.rejects(readAll(broken), { message: 'broken' });
  const last = source();
  last.end();
  t.equal(await readAll(turns.inTurn(last.rows, signal)), 'a\nb\n');
});

t.test('who goes away while waiting is not waited for', async t => {
  const turns = createRenderTurns({ atOnce: 1 });
  const first = source();
  const reading = readAll(turns.inTurn(first.rows, signal));
  const leaving = new AbortController();
  const second = source();
  const left = readAll(turns.inTurn(second.rows, leaving.signal));
  const third = source();
  const waiting = readAll(turns.inTurn(third.rows, signal));
  leaving.abort(new Error('gone'));
  await t.rejects(left, { message: 'gone' });
  await t.rejects(readAll(turns.inTurn(second.rows, leaving.signal)), { message: 'gone' });
  first.end();
  third.end();
  t.strictSame(await Promise.all([reading, waiting]), ['a\nb\n', 'a\nb\n']);
  t.equal(second.hasBegun(), false);
});

t.test('a reader who stands still gives up the turn and keeps the rows', async t => {
  const turns = createRenderTurns({ atOnce: 1 });
  const first = source();
  first.end();
  const slow = turns.inTurn(first.rows, signal);
  t.equal((await slow.next()).value?.toString(), 'a\n');
  const second = source();
  const reading = readAll(turns.inTurn(second.rows, signal));
  await second.begun;
  second.end();
  t.equal(await reading, 'a\nb\n');
  t.equal(await readAll(slow), 'b\n');
});

t.test('nobody waits for ever', async t => {
  const turns = createRenderTurns({ atOnce: 1, longestWaitMs: 50 });
  const [first, second] = [source(), source()];
  const reading = [first, second].map(({ rows }) => readAll(turns.inTurn(rows, signal)));
  await second?.begun;
  first.end();
  second.end();
  t.strictSame(await Promise.all(reading), ['a\nb\n', 'a\nb\n']);
});

t.test('downloads that nobody reads do not keep others waiting', async t => {
  const app = await startTestApp(t, {
    now: '2026-03-02T10:00:00.000Z',
    env: { RENDERS_AT_ONCE: '3' },
  });
  await app.putEnvironment('acme');
  const rowCount = 150_000;
  await fillSnapshot(app.database.pool, 'acme', '2026-03-01', rowCount);
  const url = `${app.origin}/v1/environments/acme/exports/30-days-daily.csv`;
  const headers = { authorization: `Bearer ${app.config.adminToken}` };
  const stalled = await Promise.all(Array.from({ length: 3 }, () => open(url, { headers })));
  t.teardown(() => {
    for (const response of stalled) response.destroy();
  });
  const startedAt = performance.now();
  const file = await app.download('acme', '30-days-daily');
  t.equal(file.text.split('\n').length, rowCount + 2);
  t.ok(
    performance.now() - startedAt < 10_000,
    'long before it would have been begun without a turn',
  );
});
