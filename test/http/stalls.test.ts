import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { limitSourceStall } from '../../src/http/stalls.ts';

const timeoutMs = 500;

async function* source(pausesMs: readonly number[]): AsyncGenerator<number> {
  for (const [index, pauseMs] of pausesMs.entries()) {
    if (pauseMs > 0) await delay(pauseMs);
    yield index;
  }
}

/** Who is slow, and whether the limit is about that. */
const table = [
  ['nobody', [0, 0, 0], 0, false],
  ['the reader', [0, 0, 0], 1_200, false],
  ['the source', [0, 1_200, 0], 0, true],
] as const;

for (const [slow, pausesMs, readerPauseMs, stalls] of table) {
  t.test(`limitSourceStall: ${slow} is slow`, async t => {
    let stalled = false;
    const read: number[] = [];
    const limited = limitSourceStall(source(pausesMs), timeoutMs, () => {
      stalled = true;
    });
    for await (const item of limited) {
      read.push(item);
      if (readerPauseMs > 0) await delay(readerPauseMs);
    }
    t.strictSame(read, [0, 1, 2]);
    t.equal(stalled, stalls);
  });
}
