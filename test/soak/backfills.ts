import { setTimeout as delay } from 'node:timers/promises';
import { waitFor } from '../helpers/wait-for.ts';
import { type ConfigModel, withFreeConfig } from './config-model.ts';
import { dayBefore } from './ingests.ts';
import type { Random } from './random.ts';
import { checkObject, hasten, readRuns } from './runs.ts';
import { type ProcessName, throughOutages, type World } from './world.ts';

/** Time limit for a backfill of a few days. */
const limitMs = 240_000;
/** Time after which the delays before retries are skipped. */
const hastenAfterMs = 20_000;

/** Backfills a few days of a random config, cancels some backfills, and checks their objects. */
export async function backfillSomeConfig(
  world: World,
  configs: ConfigModel,
  random: Random,
  api: ProcessName,
): Promise<void> {
  await withFreeConfig(configs, random, async config => {
    const from = Date.now();
    const path = `/v1/environments/${config.environmentId}/export-configs/${config.id}/backfills`;
    const oldest = 1 + random.integer(8);
    const answer = await world
      .call(api, path, {
        method: 'POST',
        json: { from: dayBefore(world.today(), oldest), to: dayBefore(world.today(), 1) },
      })
      .catch(() => null);
    // The status is 409 if an earlier request without an answer started a backfill.
    if (answer !== null && ![202, 409, 503].includes(answer.status))
      world.faults.push(`a backfill was answered ${answer.status} ${answer.text}`);
    if (answer?.status !== 202) return;
    world.counts.backfills += 1;
    const { id } = answer.json;
    let isCancelled = false;
    if (random.chance(0.3)) {
      await delay(random.integer(2_000));
      const cancelled = await world
        .call(api, `${path}/${id}/cancel`, { method: 'POST' })
        .catch(() => null);
      // Without an answer the cancellation may have happened.
      isCancelled = cancelled === null || cancelled.status !== 409;
      if (cancelled !== null && ![202, 409, 503].includes(cancelled.status))
        world.faults.push(`a cancellation was answered ${cancelled.status} ${cancelled.text}`);
    }
    for (;;) {
      const found = await waitFor(
        `the state of backfill ${id}`,
        async () => {
          const read = await world.call('elder api', `${path}/${id}`);
          if (read.status !== 200) throw new Error(`${read.status} ${read.text}`);
          return read.json;
        },
        throughOutages,
      );
      const runs = (await readRuns(world)).filter(run => run.backfill_id === id);
      const isOver = found.state !== 'running' && runs.every(run => run.finished_at !== null);
      if (!isOver) {
        const tookMs = Date.now() - from;
        if (tookMs > limitMs) {
          world.faults.push(`a backfill has not ended: ${JSON.stringify({ found, runs })}`);
          return;
        }
        if (tookMs > hastenAfterMs) await hasten(world);
        await delay(300);
        continue;
      }
      const isWhole = found.state === 'finished' && runs.length === found.total;
      if (!isWhole && !isCancelled)
        world.faults.push(`a backfill is not complete: ${JSON.stringify({ found, runs })}`);
      for (const run of runs) {
        if (run.state === 'successful') await checkObject(world, run, { from, to: Date.now() });
        else if (
          run.error_code !== 'snapshot_missing' &&
          !(isCancelled && run.error_code === 'cancelled')
        )
          world.faults.push(`a run of a backfill failed: ${JSON.stringify(run)}`);
      }
      return;
    }
  });
}
