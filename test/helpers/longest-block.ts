/** Number of measurements, if each of them exceeds the limit. */
const maxTries = 5;

/**
 * Runs `work` and returns the longest time in milliseconds for which one turn of the event loop
 * used the CPU. Other processes do not count. If the time exceeds the limit, measures again and
 * returns the lowest: a busy machine slows single turns down, compilation the first ones, and work
 * that blocks does so each time.
 *
 * @param work may be done several times
 * @param limitMs limit of the test. Default: 50
 */
export async function longestBlockMs(work: () => Promise<unknown>, limitMs = 50): Promise<number> {
  let lowest = Number.POSITIVE_INFINITY;
  for (let tries = 0; tries < maxTries && lowest >= limitMs; tries += 1) {
    lowest = Math.min(lowest, await measureOnce(work));
  }
  return lowest;
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
