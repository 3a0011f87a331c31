/**
 * Keeps the hooks of tap's coverage out of test processes and of the processes that tests start.
 * tap adds them even when coverage is off. They read every module and its source map, so a test of
 * the whole service needs 1 s more of CPU time to start. They also disable Node's compile cache.
 *
 * `test/run.ts` loads this file by `NODE_OPTIONS`, so it runs before the hooks. tap passes the
 * variable on to test processes. A test process does not pass it on to the processes it starts.
 */
import module from 'node:module';

const { registerHooks } = module;

module.registerHooks = () => {
  module.registerHooks = registerHooks;
  return { deregister: () => {} };
};
process.setSourceMapsEnabled(false);
// tap adds its hooks to every started process by this package, unless its state exists already.
Object.assign(globalThis, {
  [Symbol.for('process-on-spawn@*:singletonId')]: { version: 1, listeners: [], unwrap: () => {} },
});
if (/\.test\.ts$/.test(process.argv[1] ?? '')) delete process.env['NODE_OPTIONS'];
