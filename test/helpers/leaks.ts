/**
 * Loaded into every test process before its file (`tap` section of package.json). Registered first, its teardown
 * runs last: when the file is done, nothing may keep the process alive that was not there at the start.
 */
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';

/** Sockets that were just closed need a moment. */
const patienceMs = 3_000;

const before = countByType(process.getActiveResourcesInfo());

t.teardown(async () => {
  const deadline = Date.now() + patienceMs;
  let left = newResources();
  while (left.length > 0 && Date.now() < deadline) {
    await delay(20);
    left = newResources();
  }
  if (left.length === 0) return;
  // What was leaked keeps the process from ending by itself, and tap would wait for its time limit.
  setTimeout(() => process.exit(1), 500).unref();
  throw new Error(`LEAK: the test file is done, but these are still open: ${left.join(', ')}`);
});

function newResources(): string[] {
  return [...countByType(process.getActiveResourcesInfo())]
    .map(([type, count]) => ({ type, count: count - (before.get(type) ?? 0) }))
    .filter(({ count }) => count > 0)
    .map(({ type, count }) => `${count} × ${type}`);
}

function countByType(types: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const type of types) counts.set(type, (counts.get(type) ?? 0) + 1);
  return counts;
}
