/**
 * Keeps the hooks of tap's coverage out of test processes and of the processes that tests start.
 * tap adds them even when coverage is off. They read every module and its source map, so a test of
 * the whole service needs 2 s more of CPU time to start. They also disable Node's compile cache.
 *
 * `test/run.ts` loads this file by `NODE_OPTIONS`, which comes before the hooks.
 */
import module from 'node:module';

const { registerHooks } = module;

module.registerHooks = () => {
  module.registerHooks = registerHooks;
  return { deregister: () => {} };
};
process.setSourceMapsEnabled(false);
delete process.env['NODE_OPTIONS'];
