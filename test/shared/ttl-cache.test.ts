import t from 'tap';
import { cacheWithTtl } from '../../src/shared/ttl-cache.ts';

/** Returns reads that the test settles. */
function pendingReads() {
  const pending: PromiseWithResolvers<number>[] = [];
  const read = () => {
    const one = Promise.withResolvers<number>();
    pending.push(one);
    return one.promise;
  };
  return { pending, read };
}

t.test('shares one read among all callers and keeps its outcome', async t => {
  const { pending, read } = pendingReads();
  const ask = cacheWithTtl(read, { ttlMs: 60_000, timeoutMs: 60_000 });
  const asked = Promise.all([ask(), ask(), ask()]);
  pending[0]?.resolve(1);
  t.strictSame(await asked, [1, 1, 1]);
  t.equal(await ask(), 1);
  t.equal(pending.length, 1);
});

t.test('keeps a failed read as null', async t => {
  const { pending, read } = pendingReads();
  const ask = cacheWithTtl(read, { ttlMs: 60_000, timeoutMs: 60_000 });
  const asked = ask();
  pending[0]?.reject(new Error('away'));
  t.equal(await asked, null);
  t.equal(await ask(), null);
  t.equal(pending.length, 1);
});

t.test('reads again once the outcome is too old', async t => {
  const { pending, read } = pendingReads();
  const ask = cacheWithTtl(read, { ttlMs: -1, timeoutMs: 60_000 });
  for (const value of [1, 2]) {
    const asked = ask();
    pending.at(-1)?.resolve(value);
    t.equal(await asked, value);
  }
});

t.test('stops waiting for a slow read and starts no second one', async t => {
  const { pending, read } = pendingReads();
  const ask = cacheWithTtl(read, { ttlMs: 0, timeoutMs: 20 });
  t.equal(await ask(), null);
  t.equal(await ask(), null);
  t.equal(pending.length, 1);
  const asked = ask();
  pending[0]?.resolve(3);
  t.equal(await asked, 3, 'the read has ended');
});
