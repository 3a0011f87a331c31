import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

const sampleEveryMs = 50;

/**
 * Returns the memory in MiB that objects and buffers of this thread use after a garbage collection.
 * Unlike the resident set size it does not depend on when V8 collects or other threads allocate.
 */
export function liveMemoryMib(): number {
  // The first collection frees buffers in the background. The second waits for that.
  collectGarbage();
  collectGarbage();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return (heapUsed + arrayBuffers) / 2 ** 20;
}

/** Runs `work` and returns by how many MiB the live memory exceeded its start at most. */
export async function peakMemoryMib(work: () => Promise<unknown>): Promise<number> {
  const before = liveMemoryMib();
  let peak = before;
  let running = true;
  const end = work().finally(() => {
    running = false;
  });
  while (running) {
    await Promise.race([end, delay(sampleEveryMs)]);
    peak = Math.max(peak, liveMemoryMib());
  }
  await end;
  return peak - before;
}
