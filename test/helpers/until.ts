import { setTimeout as delay } from 'node:timers/promises';

/**
 * Calls `ask` every 100 ms until `isWanted` accepts its answer.
 *
 * @throws Error after `limitMs`
 */
export async function until<T>(
  ask: () => Promise<T>,
  isWanted: (answer: T) => boolean,
  limitMs = 30_000,
): Promise<T> {
  const deadline = Date.now() + limitMs;
  while (true) {
    const answer = await ask();
    if (isWanted(answer)) return answer;
    if (Date.now() > deadline)
      throw new Error(`not within ${limitMs} ms: ${JSON.stringify(answer)}`);
    await delay(100);
  }
}
