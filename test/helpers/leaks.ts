/**
 * Fails a test file that keeps the process alive after its end. Every test process loads this file
 * first (`tap` section of package.json). The teardown is registered first and therefore runs last.
 */
import net from 'node:net';
import t from 'tap';
import { waitFor } from './wait-for.ts';

/** Time for sockets that were just closed, also on a busy machine. */
const limitMs = 8_000;

const before = countByType(process.getActiveResourcesInfo());

t.teardown(async () => {
  const left = await waitFor('the end of all resources', newResources, {
    isWanted: resources => resources.length === 0,
    limitMs,
  }).catch(newResources);
  if (left.length === 0) return;
  // The leak would keep the process alive until tap's time limit.
  setTimeout(() => process.exit(1), 500).unref();
  const message = `LEAK: the test file has ended, but these are still open: ${left.join(', ')}`;
  throw new Error([message, ...describeHandles()].join('\n'));
});

function newResources(): string[] {
  return [...countByType(process.getActiveResourcesInfo())]
    .map(([type, count]) => ({ type, count: count - (before.get(type) ?? 0) }))
    .filter(({ count }) => count > 0)
    .map(({ type, count }) => `${count} × ${type}`);
}

/** Returns a line for each open connection and child process. */
function describeHandles(): string[] {
  const internals = process as unknown as { _getActiveHandles?(): readonly unknown[] };
  return (internals._getActiveHandles?.() ?? []).flatMap(handle => {
    if (handle instanceof net.Socket && handle.remotePort !== undefined) {
      return [`connection from port ${handle.localPort} to port ${handle.remotePort}`];
    }
    const { spawnargs, pid } = handle as { spawnargs?: readonly string[]; pid?: number };
    return spawnargs === undefined ? [] : [`process ${pid}: ${spawnargs.join(' ')}`];
  });
}

function countByType(types: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const type of types) counts.set(type, (counts.get(type) ?? 0) + 1);
  return counts;
}
