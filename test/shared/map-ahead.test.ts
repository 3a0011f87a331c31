import t from 'tap';
import { mapAhead } from '../../src/shared/map-ahead.ts';

t.test('keeps the order and prepares as many results as allowed', async t => {
  for (const ahead of [0, 1, 3]) {
    const started: number[] = [];
    const results: number[] = [];
    const mapped = mapAhead([1, 2, 3, 4, 5, 6], ahead, async item => {
      started.push(item);
      return item * 10;
    });
    for await (const result of mapped) {
      results.push(result);
      t.equal(started.length, Math.min(6, results.length + ahead));
    }
    t.strictSame(results, [10, 20, 30, 40, 50, 60]);
  }
});

t.test('throws an error in its turn, after the earlier results', async t => {
  const results: number[] = [];
  const mapped = mapAhead([1, 2, 3], 2, async item => {
    if (item === 2) throw new Error('no 2');
    return item;
  });
  await t.rejects(
    async () => {
      for await (const result of mapped) results.push(result);
    },
    { message: 'no 2' },
  );
  t.strictSame(results, [1]);
});

t.test('waits for pending results when the reader stops', async t => {
  let ended = 0;
  const mapped = mapAhead([1, 2, 3], 1, async item => {
    await new Promise(setImmediate);
    ended += 1;
    return item;
  });
  await mapped.next();
  await mapped.return(undefined);
  t.equal(ended, 2);
});
