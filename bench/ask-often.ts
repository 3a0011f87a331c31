/**
 * Requests several addresses in turn at a steady rate. Prints the milliseconds of each answer.
 *
 *   node bench/ask-often.ts <seconds> <requests per second> <url>…
 *
 * The variable TOKEN has the bearer token.
 */
import http from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';

const [seconds = '1', perSecond = '50', ...urls] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true });
const count = Number(seconds) * Number(perSecond);
const milliseconds: number[][] = urls.map(() => []);
const pending: Promise<void>[] = [];
const startedAt = performance.now();

/**
 * Sends each request on time, even if the previous answer is missing. A late answer therefore
 * delays no other request.
 */
for (let index = 0; index < count; index += 1) {
  const early = (index / Number(perSecond)) * 1000 - (performance.now() - startedAt);
  if (early > 0) await delay(early);
  const which = index % urls.length;
  pending.push(ask(urls[which] ?? '').then(taken => void milliseconds[which]?.push(taken)));
}
await Promise.all(pending);
agent.destroy();
console.log(JSON.stringify(milliseconds));

async function ask(url: string): Promise<number> {
  const askedAt = performance.now();
  const headers = { authorization: `Bearer ${process.env['TOKEN'] ?? ''}` };
  return await new Promise((resolve, reject) => {
    http
      .get(url, { agent, headers }, answer => {
        if (answer.statusCode !== 200) reject(new Error(`${url}: ${answer.statusCode}`));
        answer.resume().once('end', () => resolve(performance.now() - askedAt));
      })
      .once('error', reject);
  });
}
