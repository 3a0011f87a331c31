import { setTimeout as delay } from 'node:timers/promises';
import { gunzipSync } from 'node:zlib';
import { type Aggregation, aggregations } from '../../src/exports/aggregations.ts';
import { type Answer, open } from '../helpers/http-client.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import type { Random } from './random.ts';
import { shownOn } from './snapshot-model.ts';
import type { ProcessName, World } from './world.ts';

interface Wanted {
  readonly api: ProcessName;
  readonly environmentId: string;
}

/**
 * Downloads a file in a random way. Compares a complete file with all contents that it may show.
 */
export async function downloadSomeFile(
  world: World,
  random: Random,
  wanted: Wanted,
): Promise<void> {
  const aggregation = random.pick(aggregations);
  const way = random.pickWeighted([
    [4, 'plain'],
    [2, 'gzip'],
    [2, 'gzip file'],
    [2, 'link'],
    [1, 'goes away'],
    [1, 'HEAD'],
  ] as const);
  if (way === 'goes away') return await goAway(world, random, wanted, aggregation);

  const from = Date.now();
  const before = world.today();
  const path = `/v1/environments/${wanted.environmentId}/exports/${aggregation}.csv`;
  const answer = await ask(world, random, wanted, way, path, aggregation).catch(() => null);
  const span = { from, to: Date.now() };
  if (answer === null) {
    world.counts['interrupted downloads'] += 1;
    return;
  }
  // A link is valid for one date of the clock only.
  const hasLeapt = world.today() !== before;
  if ([429, 503].includes(answer.status) || (way === 'link' && hasLeapt && answer.status < 500))
    return;
  if (answer.status !== 200) {
    world.faults.push(
      `download (${way}) was answered ${answer.status} ${answer.text.slice(0, 300)}`,
    );
    return;
  }
  if (way === 'HEAD') return;
  world.counts.downloads += 1;
  const isPacked = way === 'gzip file' || answer.headers['content-encoding'] === 'gzip';
  const text = (isPacked ? gunzipSync(answer.body) : answer.body).toString();
  const totalRows = Number(answer.headers['x-total-rows']);
  const faults = [...new Set([before, world.today()])].map(today =>
    world.model.faultOf(
      wanted.environmentId,
      shownOn(aggregation, today),
      { text, totalRows },
      span,
    ),
  );
  if (faults.every(fault => fault !== null)) {
    world.faults.push(
      `${wanted.environmentId} ${aggregation} (${way}) is wrong: ${faults.join(' or ')}`,
    );
  }
}

async function ask(
  world: World,
  random: Random,
  { api, environmentId }: Wanted,
  way: 'plain' | 'gzip' | 'gzip file' | 'link' | 'HEAD',
  path: string,
  aggregation: Aggregation,
): Promise<Answer> {
  if (way === 'gzip file') return await world.call(api, `${path}.gz`);
  if (way === 'HEAD') return await world.call(api, path, { method: 'HEAD' });
  if (way === 'gzip')
    return await world.call(api, path, { headers: { 'accept-encoding': 'gzip' } });
  if (way === 'plain') return await world.call(api, path);
  const made = await world.call(api, `/v1/environments/${environmentId}/download-links`, {
    method: 'POST',
    json: { aggregation, expiresInSeconds: 60 + random.integer(3_000) },
  });
  if (made.status !== 201) return made;
  return await world.call(api, new URL(made.json.url).pathname);
}

async function goAway(
  world: World,
  random: Random,
  { api, environmentId }: Wanted,
  aggregation: Aggregation,
): Promise<void> {
  const origin = world.processes.get(api)?.origin;
  world.counts.requests += 1;
  const response = await open(
    `${origin}/v1/environments/${environmentId}/exports/${aggregation}.csv`,
    {
      headers: { authorization: `Bearer ${testAdminToken}` },
    },
  ).catch(() => null);
  response?.on('error', () => {});
  response?.resume();
  await delay(random.integer(30));
  response?.destroy();
}
