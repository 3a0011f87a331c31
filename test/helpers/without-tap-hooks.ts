/**
 * Keeps costly hooks of tap out of test processes and of the processes that tests start. tap adds
 * those of its coverage even when coverage is off. They read every module and its source map, so a
 * test of the whole service needs 1 s more of CPU time to start. They also disable Node's compile
 * cache.
 *
 * `test/run.ts` loads this file by `NODE_OPTIONS`, so it runs before the hooks. tap passes the
 * variable on to test processes. A test process does not pass it on to the processes it starts.
 */
import asyncHooks, { type AsyncHook } from 'node:async_hooks';
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
if (/\.test\.ts$/.test(process.argv[1] ?? '')) {
  delete process.env['NODE_OPTIONS'];
  // tap follows every promise and callback to find the test of a stray error. That takes 0.5 of 4 s
  // of CPU time in a test with many queries. Without it, a stray error also fails the file: it ends
  // the process.
  const noHook: AsyncHook = { enable: () => noHook, disable: () => noHook };
  asyncHooks.createHook = () => noHook;
  module.syncBuiltinESMExports();
}
