import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { limitReaderStall, limitSourceStall } from '../../src/http/stalls.ts';

const timeoutMs = 500;

async function* source(pausesMs: readonly number[]): AsyncGenerator<number> {
  for (const [index, pauseMs] of pausesMs.entries()) {
    if (pauseMs > 0) await delay(pauseMs);
    yield index;
  }
}

const limits = { limitReaderStall, limitSourceStall };
/** Who is slow, and whether each limit is about that. */
const table = [
  ['nobody', [0, 0, 0], 0, { limitReaderStall: false, limitSourceStall: false }],
  ['the reader', [0, 0, 0], 1_200, { limitReaderStall: true, limitSourceStall: false }],
  ['the source', [0, 1_200, 0], 0, { limitReaderStall: false, limitSourceStall: true }],
] as const;

for (const [slow, pausesMs, readerPauseMs, stalls] of table) {
  for (const name of ['limitReaderStall', 'limitSourceStall'] as const) {
    t.test(`${name}: ${slow} is slow`, async t => {
      let stalled = false;
      const read: number[] = [];
      const limited = limits[name](source(pausesMs), timeoutMs, () => {
        stalled = true;
      });
      for await (const item of limited) {
        read.push(item);
        if (readerPauseMs > 0) await delay(readerPauseMs);
      }
      t.strictSame(read, [0, 1, 2]);
      t.equal(stalled, stalls[name]);
    });
  }
}
