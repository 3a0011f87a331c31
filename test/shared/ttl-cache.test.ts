import t from 'tap';
import { readSeldom } from '../../src/shared/ttl-cache.ts';

/** A read that is answered by hand. */
function pendingReads() {
  const pending: PromiseWithResolvers<number>[] = [];
  const read = () => {
    const one = Promise.withResolvers<number>();
    pending.push(one);
    return one.promise;
  };
  return { pending, read };
}

t.test('many ask, one reads, and its outcome is kept', async t => {
  const { pending, read } = pendingReads();
  const ask = readSeldom(read, { keepMs: 60_000, patienceMs: 60_000 });
  const asked = Promise.all([ask(), ask(), ask()]);
  pending[0]?.resolve(1);
  t.strictSame(await asked, [1, 1, 1]);
  t.equal(await ask(), 1);
  t.equal(pending.length, 1);
});

t.test('a failure is null, and kept as well', async t => {
  const { pending, read } = pendingReads();
  const ask = readSeldom(read, { keepMs: 60_000, patienceMs: 60_000 });
  const asked = ask();
  pending[0]?.reject(new Error('away'));
  t.equal(await asked, null);
  t.equal(await ask(), null);
  t.equal(pending.length, 1);
});

t.test('what was kept long enough is read again', async t => {
  const { pending, read } = pendingReads();
  const ask = readSeldom(read, { keepMs: -1, patienceMs: 60_000 });
  for (const value of [1, 2]) {
    const asked = ask();
    pending.at(-1)?.resolve(value);
    t.equal(await asked, value);
  }
});

t.test('nobody waits long for a read that hangs, and no second one begins meanwhile', async t => {
  const { pending, read } = pendingReads();
  const ask = readSeldom(read, { keepMs: 0, patienceMs: 20 });
  t.equal(await ask(), null);
  t.equal(await ask(), null);
  t.equal(pending.length, 1);
  const asked = ask();
  pending[0]?.resolve(3);
  t.equal(await asked, 3, 'it has come back');
});
