import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { gunzipSync } from 'node:zlib';
import { onlyThatDay } from '../../src/exports/aggregations.ts';
import { hastenRetries } from '../helpers/hasten-retries.ts';
import { readObject } from '../helpers/s3.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { bucketOf, usesRole } from './buckets.ts';
import { type ConfigModel, type KnownConfig, withFreeConfig } from './config-model.ts';
import { csvOfParquet } from './csv-of-parquet.ts';
import type { Random } from './random.ts';
import type { Span } from './snapshot-model.ts';
import { type ProcessName, throughOutages, type World } from './world.ts';

export interface RunRow {
  readonly environment_id: string;
  readonly config_id: string;
  readonly id: string;
  readonly trigger: string;
  readonly backfill_id: string | null;
  readonly finished_at: Date | null;
  readonly slot: Date | null;
  readonly snapshot_date: string;
  readonly state: string;
  readonly attempts: number;
  readonly row_count: string;
  readonly bytes: string;
  readonly sha256: string;
  readonly object_key: string;
  readonly error_code: string | null;
  readonly error_message: string | null;
}

export const isOver = ({ state }: { state: string }) =>
  state === 'successful' || state === 'failed';

export async function readRuns(world: World): Promise<RunRow[]> {
  return await waitFor(
    'all runs',
    async () =>
      (
        await world.admin.query<RunRow>(
          `select environment_id, config_id, id, trigger, backfill_id, finished_at, slot, snapshot_date::text, state, attempts, row_count, bytes, sha256, object_key, error_code, error_message
           from export_runs order by finished_at`,
        )
      ).rows,
    throughOutages,
  );
}

/** Time after which the delays before retries are skipped. */
const hastenAfterMs = 20_000;
/** Time limit for the runs of one slot. */
const dayLimitMs = 240_000;

/** Waits until every due run has ended. */
export async function untilRunsAreOver(
  world: World,
  due: readonly KnownConfig[],
  slot: string,
): Promise<void> {
  const startedAt = Date.now();
  while (true) {
    const runs = await readRuns(world);
    const open = runs.filter(run => !isOver(run));
    const missing = due.filter(
      config =>
        !config.isDeleted &&
        !config.mayBeWithoutRun.has(slot) &&
        !runs.some(run => run.config_id === config.id && run.slot?.toISOString() === slot),
    );
    if (open.length + missing.length === 0) return;
    const tookMs = Date.now() - startedAt;
    if (tookMs > dayLimitMs) {
      world.faults.push(
        `${slot}: not over after ${tookMs} ms: ${JSON.stringify(open)}, without a run ${missing.map(({ id }) => id)}`,
      );
      return;
    }
    await world.tick();
    if (tookMs > hastenAfterMs) await hasten(world);
    await delay(500);
  }
}

export async function hasten(world: World): Promise<void> {
  await hastenRetries(world.admin).catch(() => {});
}

/**
 * Compares an object with the run that wrote it, and with all contents that the snapshot may have
 * had meanwhile.
 */
export async function checkObject(world: World, run: RunRow, span: Span): Promise<void> {
  const what = `${run.environment_id} ${run.config_id} ${run.slot?.toISOString() ?? run.trigger}`;
  const bucket = bucketOf(world, run.object_key);
  const stored = await waitFor(
    'the object of a run',
    () => readObject(bucket, run.object_key),
    throughOutages,
  ).catch(() => null);
  if (stored === null) {
    world.faults.push(`${what}: there is no object ${run.object_key}`);
    return;
  }
  const { body, metadata } = stored;
  if (
    createHash('sha256').update(body).digest('hex') !== run.sha256 ||
    body.length !== Number(run.bytes)
  ) {
    // Another run for the same day may have overwritten the object. That run compares it itself.
    const isOther = (other: RunRow) =>
      other.config_id === run.config_id &&
      other.snapshot_date === run.snapshot_date &&
      other.id !== run.id;
    if ((await readRuns(world)).some(isOther)) return;
    world.faults.push(
      `${what}: ${body.length} bytes are not what the run says it wrote: ${run.bytes}`,
    );
  }
  const text = await textOf(run.object_key, body);
  if (run.object_key.endsWith('.parquet')) world.counts['Parquet objects'] += 1;
  if (usesRole(run.object_key)) world.counts['compared objects of roles'] += 1;
  const totalRows = Number(metadata['row-count']);
  const fault = world.model.faultOf(
    run.environment_id,
    [onlyThatDay(run.snapshot_date)],
    { text, totalRows },
    span,
  );
  if (fault !== null) world.faults.push(`${what}: ${fault}`);
}

/** Returns an object as CSV. */
async function textOf(key: string, body: Buffer): Promise<string> {
  if (key.endsWith('.parquet')) return await csvOfParquet(body);
  return (key.endsWith('.gz') ? gunzipSync(body) : body).toString();
}

/** Cancels a run after a while. @returns false if the service refused, because the run had ended */
async function cancel(
  world: World,
  random: Random,
  api: ProcessName,
  { id, configId }: { id: string; configId: string },
): Promise<boolean> {
  await delay(random.integer(1_500));
  const environmentId = (await readRuns(world)).find(run => run.id === id)?.environment_id;
  const path = `/v1/environments/${environmentId}/export-configs/${configId}/runs/${id}/cancel`;
  const answer = await world.call(api, path, { method: 'POST' }).catch(() => null);
  if (answer?.status === 202) world.counts['cancelled runs'] += 1;
  if (answer !== null && ![202, 409, 503].includes(answer.status))
    world.faults.push(`a cancellation was answered ${answer.status} ${answer.text}`);
  return answer?.status !== 409;
}

/** Starts a manual run of a random config, cancels some, and follows it to its end. */
export async function runSomeConfig(
  world: World,
  configs: ConfigModel,
  random: Random,
  api: ProcessName,
): Promise<void> {
  await withFreeConfig(configs, random, async config => {
    const from = Date.now();
    const path = `/v1/environments/${config.environmentId}`;
    const answer = await world
      .call(api, `${path}/export-configs/${config.id}/runs`, { method: 'POST' })
      .catch(() => null);
    // The status is 409 if another run of the config has not ended, 404 if the snapshot does not
    // exist.
    if (answer !== null && ![202, 409, 404, 503].includes(answer.status)) {
      world.faults.push(`a manual run was answered ${answer.status} ${answer.text}`);
    }
    if (answer?.status !== 202) return;
    world.counts['manual runs'] += 1;
    const startedAt = Date.now();
    const isCancelled = random.chance(0.25) && (await cancel(world, random, api, answer.json));
    while (true) {
      const run = (await readRuns(world)).find(({ id }) => id === answer.json.id);
      if (run === undefined || Date.now() - startedAt > dayLimitMs) {
        world.faults.push(`a manual run is ${run === undefined ? 'missing' : JSON.stringify(run)}`);
        return;
      }
      if (Date.now() - startedAt > hastenAfterMs) await hasten(world);
      if (run.state === 'successful')
        return await checkObject(world, run, { from, to: Date.now() });
      if (run.state === 'failed') {
        if (isCancelled && run.error_code === 'cancelled') return;
        world.faults.push(`a manual run failed: ${JSON.stringify(run)}`);
        return;
      }
      await delay(300);
    }
  });
}

/** Time after which the storage takes objects again, even if the run has not ended. */
const denialLimitMs = 60_000;

/**
 * Makes a manual run of a random config fail, because the storage refuses its object. Another run
 * follows and succeeds.
 */
export async function failSomeRun(
  world: World,
  configs: ConfigModel,
  random: Random,
  api: ProcessName,
): Promise<void> {
  await withFreeConfig(configs, random, async config => {
    if (configs.currentSlot !== null) config.mayBeDenied.add(configs.currentSlot);
    const path = `/v1/environments/${config.environmentId}/export-configs/${config.id}/runs`;
    const start = async () => {
      const started = await world.call(api, path, { method: 'POST' }).catch(() => null);
      return started?.status === 202 ? (started.json.id as string) : null;
    };
    const end = async (id: string, limitMs: number) => {
      for (const startedAt = Date.now(); Date.now() - startedAt < limitMs; await delay(300)) {
        const run = (await readRuns(world)).find(found => found.id === id);
        if (run !== undefined && isOver(run)) return run;
        if (Date.now() - startedAt > hastenAfterMs) await hasten(world);
      }
      return null;
    };
    // The clock does not move over midnight meanwhile.
    configs.changing += 1;
    world.deniedFolders.add(config.key);
    const id = await start();
    const denied = id === null ? null : await end(id, denialLimitMs);
    world.deniedFolders.delete(config.key);
    configs.changing -= 1;
    if (id === null) return;
    if (denied?.error_code === 'write_denied') world.counts['denied runs'] += 1;
    else if (denied !== null)
      world.faults.push(`a denied run ended otherwise: ${JSON.stringify(denied)}`);
    const next = await start();
    const run = next === null ? null : await end(next, dayLimitMs);
    if (run !== null && run.state !== 'successful')
      world.faults.push(`a run failed after the storage recovered: ${JSON.stringify(run)}`);
  });
}
