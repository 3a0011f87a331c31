import { setTimeout as delay } from 'node:timers/promises';
import type { Test } from 'tap';
import { waitFor } from '../helpers/wait-for.ts';
import { backfillSomeConfig } from './backfills.ts';
import { compareRegistry } from './compare-registry.ts';
import {
  type ConfigModel,
  changeSomeConfig,
  create as createConfig,
  createConfigModel,
} from './config-model.ts';
import { downloadSomeFile } from './downloads.ts';
import {
  dayBefore,
  deleteSomeDay,
  ingest,
  ingestSomeDay,
  ingestSurely,
  newContent,
} from './ingests.ts';
import type { Fault } from './inject-faults.ts';
import { createRandom, type Random } from './random.ts';
import { checkObject, failSomeRun, readRuns, runSomeConfig, untilRunsAreOver } from './runs.ts';
import { verifyEnd } from './verify-end.ts';
import { verifyWebhooks } from './verify-webhooks.ts';
import { watchLeaks } from './watch-leaks.ts';
import { hastenMessages, startWebhooks } from './webhooks.ts';
import { apiNames, startWorld, throughOutages, type World, workerNames } from './world.ts';

export interface MixedLoad {
  readonly seed: number;
  /** Duration of the load, or number of faults after which it ends. */
  readonly lasts: { readonly durationMs: number } | { readonly times: number };
  /**
   * Faults to inject, by weight. Each list injects one fault after another. All lists run
   * concurrently.
   */
  readonly faults: readonly (readonly (readonly [weight: number, fault: Fault])[])[];
  /** Longest pause between two faults of a list. */
  readonly quietMs: number;
}

const environments = [
  { id: 'acme', isLarge: false, configs: 4 },
  { id: 'beta', isLarge: false, configs: 3 },
  { id: 'gamma', isLarge: false, configs: 2 },
  // Files of several parts.
  { id: 'large', isLarge: true, configs: 4 },
];
const callers = 5;

/**
 * Runs ingests, downloads, config changes, runs and faults concurrently. Then compares the state
 * with the answers that callers received.
 * @returns the world and the unexpected findings
 */
export async function runMixedLoad(
  t: Test,
  wanted: MixedLoad,
): Promise<{ world: World; faults: readonly string[] }> {
  const { seed, lasts } = wanted;
  console.error(`seed ${seed}`);
  const world = await startWorld(t);
  const configs = createConfigModel();
  for (const name of [...apiNames, ...workerNames]) await world.start(name);
  const random = createRandom(seed, 0);
  await createEnvironments(world, random);
  const ids = environments.map(({ id }) => id);
  const webhooks = await startWebhooks(t, world, createRandom(seed, 5), ids);
  await createConfigs(world, configs, random);
  const leaks = watchLeaks(world);

  const ending = new AbortController();
  const over = 'durationMs' in lasts ? AbortSignal.timeout(lasts.durationMs) : ending.signal;
  const startedAt = Date.now();
  let happened = 0;
  const during = async (
    work: (random: Random) => Promise<void>,
    pauseMs: (random: Random) => number,
    stream: number,
  ) => {
    const random = createRandom(seed, stream);
    while (!over.aborted) {
      await work(random);
      await delay(pauseMs(random), undefined, { signal: over }).catch(() => {});
    }
  };
  const injectFaults = (list: MixedLoad['faults'][number]) => {
    let ofList = 0;
    return async (random: Random) => {
      // Injects each fault once, then by weight.
      const fault = list[ofList]?.[1] ?? random.pickWeighted(list);
      ofList += 1;
      await fault(world, random);
      happened += 1;
      if ('times' in lasts && happened >= lasts.times) ending.abort();
    };
  };
  await Promise.all([
    ...Array.from({ length: callers }, (_, index) =>
      during(
        random => callOnce(world, configs, random),
        random => 10 + random.integer(80),
        10 + index,
      ),
    ),
    during(
      random => runSomeConfig(world, configs, random, 'elder api'),
      random => 500 + random.integer(2_000),
      1,
    ),
    during(
      random => backfillSomeConfig(world, configs, random, 'elder api'),
      random => 5_000 + random.integer(10_000),
      4,
    ),
    during(
      random => failSomeRun(world, configs, random, 'elder api'),
      random => 3_000 + random.integer(10_000),
      6,
    ),
    during(
      random => webhooks.goAway(random),
      random => 3_000 + random.integer(15_000),
      7,
    ),
    during(
      random => webhooks.rotateSecret(random),
      random => 5_000 + random.integer(30_000),
      8,
    ),
    during(
      () => hastenMessages(world),
      () => 2_000,
      9,
    ),
    during(
      random => turnDay(world, configs, random),
      () => 500,
      2,
    ),
    during(
      // The database may be unreachable, or become so meanwhile.
      random => compareRegistry(world, random.integer(1_000)).catch(() => {}),
      random => random.integer(1_000),
      3,
    ),
    ...wanted.faults.map((list, index) =>
      during(injectFaults(list), random => random.integer(wanted.quietMs), 50 + index),
    ),
  ]);
  await waitFor('a comparison of the registry', () => compareRegistry(world, 0), throughOutages);
  const runs = await verifyEnd(world, configs);
  await verifyWebhooks(world, configs, webhooks, runs);
  await leaks.verify(Date.now() - startedAt);
  return { world, faults: world.faults };
}

async function createEnvironments(world: World, random: Random): Promise<void> {
  for (const { id, isLarge } of environments) {
    const made = await world.call('elder api', `/v1/environments/${id}`, {
      method: 'PUT',
      json: { name: id, plan: 'enterprise' },
    });
    if (made.status !== 201) throw new Error(made.text);
    for (let days = isLarge ? 1 : 40; days > 0; days -= 1) {
      const date = dayBefore(world.today(), days);
      if (isLarge || random.chance(0.8)) {
        await ingest(world, 'elder api', {
          environmentId: id,
          date,
          content: newContent(random, isLarge),
        });
      }
    }
  }
}

async function createConfigs(world: World, configs: ConfigModel, random: Random): Promise<void> {
  for (const { id: environmentId, configs: count } of environments) {
    for (let config = 0; config < count; config += 1)
      await createConfig(world, configs, random, { api: 'elder api', environmentId });
  }
}

async function callOnce(world: World, configs: ConfigModel, random: Random): Promise<void> {
  const api = random.pick(apiNames);
  const { id: environmentId, isLarge, configs: most } = random.pick(environments);
  const kind = random.pickWeighted([
    [isLarge ? 1 : 4, 'ingest'],
    [8, 'download'],
    [1, 'delete'],
    [2, 'config'],
    [3, 'read'],
  ] as const);
  switch (kind) {
    case 'ingest':
      return await ingestSomeDay(world, random, { api, environmentId, isLarge });
    case 'download':
      return await downloadSomeFile(world, random, { api, environmentId });
    case 'delete':
      return await deleteSomeDay(world, random, { api, environmentId });
    case 'config':
      return await changeSomeConfig(world, configs, random, { api, environmentId, most });
    case 'read': {
      const path = random.pick(['', '/exports', '/snapshots', '/export-configs', '/api-keys']);
      const answer = await world
        .call(api, `/v1/environments/${environmentId}${path}`)
        .catch(() => null);
      if (answer !== null && answer.status !== 200 && answer.status !== 503) {
        world.faults.push(`${path} was answered ${answer.status}`);
      }
    }
  }
}

/** Ends a day: ingests its snapshots, moves the clock over midnight and awaits all due runs. */
async function turnDay(world: World, configs: ConfigModel, random: Random): Promise<void> {
  const ending = world.today();
  const late = random.pick(environments).id;
  const ingestDay = ({ id, isLarge }: (typeof environments)[number]) =>
    ingestSurely(world, random, { environmentId: id, date: ending, isLarge });
  for (const environment of environments) if (environment.id !== late) await ingestDay(environment);
  configs.isClosed = true;
  await waitFor('the end of all config changes', () => configs.changing === 0, {
    limitMs: 180_000,
  });
  const from = Date.now();
  world.turnClock();
  const slot = `${world.today()}T00:00:00.000Z`;
  const isMonday = new Date(slot).getUTCDay() === 1;
  const due = configs.known.filter(
    ({ isDeleted, enabled, schedule }) =>
      !isDeleted && enabled && (schedule === 'daily' || isMonday),
  );
  for (const config of due) config.slots.add(slot);
  configs.currentSlot = slot;
  configs.isClosed = false;
  for (const environment of environments) if (environment.id === late) await ingestDay(environment);

  world.model.mayBeTidied(dayBefore(world.today(), 31));
  await world.tidy();
  await untilRunsAreOver(world, due, slot);
  const runs = (await readRuns(world)).filter(run => run.slot?.toISOString() === slot);
  for (const run of runs.filter(({ state }) => state === 'successful')) {
    world.counts['scheduled runs'] += 1;
    await checkObject(world, run, { from, to: Date.now() });
  }
}
