import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { requireRate } from '../../src/http/require-rate.ts';

async function* sender(pausesMs: readonly number[], bytes: number): AsyncGenerator<Buffer> {
  for (const pauseMs of pausesMs) {
    if (pauseMs > 0) await delay(pauseMs, undefined, { ref: false });
    yield Buffer.alloc(bytes);
  }
}

async function read(
  pausesMs: readonly number[],
  bytes: number,
  readerPauseMs = 0,
): Promise<number> {
  const limits = {
    minBytesPerSecond: 1000,
    averageMs: 600,
    signal: new AbortController().signal,
  };
  let chunks = 0;
  for await (const _chunk of requireRate(sender(pausesMs, bytes), limits)) {
    chunks += 1;
    if (readerPauseMs > 0) await delay(readerPauseMs);
  }
  return chunks;
}

const timeout = { code: 'request_timeout', status: 408 };

t.test('accepts a fast sender', async t => {
  t.equal(await read([0, 0, 0], 10), 3);
});

t.test('accepts a fast sender whose reader is slow', async t => {
  t.equal(await read([0, 0, 0], 1, 700), 3);
});

t.test('refuses a sender that stops', async t => {
  await t.rejects(read([0, 60_000], 1_000_000), timeout);
});

t.test('refuses a sender of single bytes that never pauses for long', async t => {
  await t.rejects(
    read(
      Array.from({ length: 100 }, () => 100),
      1,
    ),
    timeout,
  );
});

t.test('ends the wait for a sender with the reason of the signal', async t => {
  const controller = new AbortController();
  const body = requireRate(sender([60_000], 1), {
    minBytesPerSecond: 1,
    averageMs: 60_000,
    signal: controller.signal,
  });
  const next = body.next();
  controller.abort(new Error('The caller closed the connection.'));
  await t.rejects(next, { message: 'The caller closed the connection.' });
});
