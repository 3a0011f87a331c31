/**
 * Runs the top-level tests of a file in reverse order, which shows tests that need an earlier one.
 * `test/run.ts` loads this file into test processes if `TEST_ORDER=reverse`.
 */
import t from 'tap';

const define = t.test.bind(t) as (...args: unknown[]) => unknown;
const waiting: unknown[][] = [];

Object.assign(t, {
  async test(...args: unknown[]) {
    waiting.push(args);
    if (waiting.length === 1) setImmediate(defineAll);
  },
});

function defineAll(): void {
  for (const args of waiting.splice(0).reverse()) define(...args);
}
