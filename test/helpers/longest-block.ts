import { lowestOf } from './lowest-of.ts';

/**
 * Runs `work` and returns the longest time in milliseconds for which one turn of the event loop
 * used the CPU. Other processes do not count. Measures up to five times, because compilation slows
 * the first turns down.
 *
 * @param work may be done several times
 * @param limitMs limit of the test. Default: 50
 */
export async function longestBlockMs(work: () => Promise<unknown>, limitMs = 50): Promise<number> {
  return await lowestOf(5, limitMs, () => measureOnce(work));
}

async function measureOnce(work: () => Promise<unknown>): Promise<number> {
  let longest = 0;
  let before = process.threadCpuUsage();
  let next: NodeJS.Immediate;
  const turn = () => {
    const { user, system } = process.threadCpuUsage(before);
    longest = Math.max(longest, user + system);
    before = process.threadCpuUsage();
    next = setImmediate(turn);
  };
  next = setImmediate(turn);
  try {
    await work();
  } finally {
    clearImmediate(next);
  }
  return longest / 1000;
}
