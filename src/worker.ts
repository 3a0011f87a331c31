import { setTimeout as delay } from 'node:timers/promises';
import type { JobWithMetadata } from 'pg-boss';
import { isDatabaseUnavailable } from './db/errors.ts';
import {
  lostRunQueue,
  type RenderJob,
  type RunJob,
  renderQueue,
  retentionQueue,
  runQueue,
  tickQueue,
  type WebhookJob,
  webhookQueue,
} from './db/job-queue.ts';
import { enqueueDue } from './export-runs/enqueue-due.sql.ts';
import { executeRun, failLostRun } from './export-runs/execute-run.ts';
import type { RunDependencies } from './export-runs/run-dependencies.ts';
import { cancelReasons } from './export-runs/run-errors.ts';
import { type RetentionSettings, tidyUp } from './retention/tidy-up.ts';
import {
  deleteReplacedRenderings,
  enqueueMissingRenderings,
  recordUnfinishedSnapshots,
} from './snapshots/render/render-queue.sql.ts';
import { renderingsAtOnce } from './snapshots/render/render-snapshot.ts';
import { deliverEvent } from './webhooks/deliver-event.ts';

/** Dependencies of the worker, in addition to those of runs. */
interface WorkerDependencies extends RunDependencies {
  readonly retention: RetentionSettings;
  /** Time for which chunks of a replaced snapshot are kept for downloads in progress. */
  readonly chunkGraceMinutes: number;
}

export interface Worker {
  /**
   * Shuts down. Takes no new jobs. Unfinished runs get some time and are then returned to the
   * queue.
   */
  stop(): Promise<void>;
}

/**
 * Maximum number of concurrent runs in this process. Each holds a database connection and up to 64
 * MiB of parts.
 */
export const runsAtOnce = 4;
/**
 * Maximum number of concurrent runs per environment in this process, so that a customer with many
 * configs leaves room for others. The alternative `groupConcurrency` of pg-boss counts over all
 * processes, but concurrent fetches let too many through.
 */
const runsAtOncePerEnvironment = 2;

/**
 * Maximum number of concurrent renderings per environment, so that a backfill leaves room for
 * others.
 */
const renderingsAtOncePerEnvironment = 1;

/**
 * Half of the runs at once may have slow storages: those that keep an attempt waiting for two
 * minutes and accept less than 2 MiB/s. With the clean-up, slow storages hold all workers of a
 * process for at most 500 s (see `slow-lane.ts`).
 */
export const slowLaneOptions = {
  places: 2,
  parquetPlaces: 1,
  graceMs: 120_000,
  minBytesPerSecond: 2 * 1024 * 1024,
  rememberMs: 60 * 60_000,
} as const;

/**
 * Maximum number of concurrent webhook deliveries in this process and per environment. A slow
 * receiver delays only its own environment.
 */
const deliveriesAtOnce = 8;
const deliveriesAtOncePerEnvironment = 1;

/**
 * Time limits of a shutdown, for runs to finish and for all work. Less than the 30 s of the
 * process.
 */
const finishMs = 20_000;
const stopMs = 27_000;
/** Time of the nightly retention job, after the runs of midnight. Cron syntax, UTC. */
const tidyingTime = '30 3 * * *';
/** Pause between attempts to start while the database cannot be reached. */
const restartMs = 2_000;

/**
 * Starts the worker, which enqueues due work and executes jobs. Returns at once, and retries while
 * the database cannot be reached.
 */
export function startWorker(dependencies: WorkerDependencies): Worker {
  const { jobs, log } = dependencies;
  const ending = new AbortController();
  const requeueing = new AbortController();
  const started = startUntil(dependencies, ending.signal, requeueing.signal);

  return {
    async stop() {
      ending.abort();
      await started;
      const timer = setTimeout(
        () => requeueing.abort(new Error('This process is stopping.')),
        finishMs,
      );
      await jobs.stop({ graceful: true, timeout: stopMs });
      clearTimeout(timer);
      log.info('worker stopped');
    },
  };
}

async function startUntil(
  dependencies: WorkerDependencies,
  ending: AbortSignal,
  stopping: AbortSignal,
): Promise<void> {
  const { log } = dependencies;
  for (let tries = 1; !ending.aborted; tries += 1) {
    try {
      await startWith(dependencies, ending, stopping);
      log.info({ runsAtOnce }, 'worker started');
      return;
    } catch (error) {
      if (tries === 1) log.warn({ err: error }, 'worker start failed');
      await delay(restartMs, undefined, { signal: ending }).catch(() => {});
    }
  }
}

async function startWith(
  dependencies: WorkerDependencies,
  ending: AbortSignal,
  stopping: AbortSignal,
): Promise<void> {
  const { jobs } = dependencies;
  await jobs.start();
  await jobs.work(tickQueue, { pollingIntervalSeconds: 1 }, () => tick(dependencies, ending));
  await jobs.work(
    renderQueue,
    {
      includeMetadata: true,
      localConcurrency: renderingsAtOnce,
      localGroupConcurrency: renderingsAtOncePerEnvironment,
      pollingIntervalSeconds: 1,
      burstWhenReadyExceeds: renderingsAtOnce,
      heartbeatRefreshSeconds: 5,
    },
    async ([job]: JobWithMetadata<RenderJob>[]) => {
      if (job === undefined) return;
      await render(dependencies, job.data, AbortSignal.any([job.signal, stopping]));
    },
  );
  await jobs.work(
    lostRunQueue,
    { includeMetadata: true, pollingIntervalSeconds: 5 },
    async ([job]: JobWithMetadata<RunJob>[]) => {
      if (job === undefined) return;
      const signal = AbortSignal.any([job.signal, stopping]);
      await failLostRun(dependencies, job.data, job.sourceId ?? job.id, signal);
    },
  );
  await jobs.work(
    runQueue,
    {
      includeMetadata: true,
      localConcurrency: runsAtOnce,
      localGroupConcurrency: runsAtOncePerEnvironment,
      pollingIntervalSeconds: 1,
      // With a backlog the next job is fetched without a pause.
      burstWhenReadyExceeds: runsAtOnce,
      heartbeatRefreshSeconds: 5,
    },
    async ([job]: JobWithMetadata<RunJob>[]) => {
      if (job === undefined) return;
      const { id, data, signal } = job;
      const isLast = job.retryCount >= job.retryLimit;
      await executeRun(dependencies, { id, data, signal, isLast }, stopping);
    },
  );
  await jobs.work(
    webhookQueue,
    {
      includeMetadata: true,
      localConcurrency: deliveriesAtOnce,
      localGroupConcurrency: deliveriesAtOncePerEnvironment,
      pollingIntervalSeconds: 2,
      burstWhenReadyExceeds: deliveriesAtOnce,
    },
    async ([job]: JobWithMetadata<WebhookJob>[]) => {
      if (job !== undefined)
        await deliverEvent(dependencies, job.data, job.retryCount >= job.retryLimit);
    },
  );
  await jobs.work(
    retentionQueue,
    { includeMetadata: true, pollingIntervalSeconds: 10, heartbeatRefreshSeconds: 15 },
    async ([job]: JobWithMetadata<object>[]) => {
      if (job !== undefined) await tidy(dependencies, AbortSignal.any([job.signal, ending]));
    },
  );
  await jobs.schedule(retentionQueue, tidyingTime, null, { missed: 'once' });
  // Missed minutes cause one tick, because the tick reads the clock itself.
  await jobs.schedule(tickQueue, '* * * * *', null, { missed: 'once' });
  await tick(dependencies, ending);
  await recordUnfinishedSnapshots(dependencies.db).catch((error: unknown) =>
    dependencies.log.error({ err: error }, 'unfinished snapshots were not recorded'),
  );
}

/** Enqueues due work. After an error the next tick retries. */
async function tick(dependencies: WorkerDependencies, ending: AbortSignal): Promise<void> {
  await tickRuns(dependencies);
  await tickRenderings(dependencies, ending);
}

async function tickRenderings(
  { db, jobs, log, now, chunkGraceMinutes }: WorkerDependencies,
  signal: AbortSignal,
): Promise<void> {
  try {
    const enqueued = await enqueueMissingRenderings(db, jobs);
    const time = now();
    const before = new Date(time.getTime() - chunkGraceMinutes * 60_000);
    const deleted = await deleteReplacedRenderings(db, { now: time, before, signal });
    if (enqueued + deleted > 0) log.info({ enqueued, deleted }, 'renderings');
  } catch (error) {
    log.error({ err: error }, 'rendering tick failed');
  }
}

/**
 * Renders a snapshot.
 * @throws the error of the rendering, after which the queue retries
 */
async function render(
  { renderer, log }: WorkerDependencies,
  { environmentId, date }: RenderJob,
  signal: AbortSignal,
): Promise<void> {
  try {
    await renderer.render({ environmentId, date }, signal);
  } catch (error) {
    const level = isDatabaseUnavailable(error) ? 'warn' : 'error';
    if (!signal.aborted) log[level]({ err: error, environmentId, date }, 'rendering failed');
    throw error;
  }
}

async function tickRuns({ db, jobs, log, metrics, now }: RunDependencies): Promise<void> {
  const startedAt = performance.now();
  try {
    const moved = await enqueueDue(db, jobs, now());
    const durationMs = Math.round(performance.now() - startedAt);
    metrics.runsEnded('failed', 'snapshot_missing', moved.failed);
    metrics.runsEnded('failed', cancelReasons.plan_upgrade_required.code, moved.switchedOff);
    const level = Object.values(moved).some(count => count > 0) ? 'info' : 'debug';
    log[level]({ ...moved, durationMs }, 'tick');
  } catch (error) {
    log.error({ err: error }, 'run tick failed');
  }
}

async function tidy(
  { db, log, now, retention }: WorkerDependencies,
  signal: AbortSignal,
): Promise<void> {
  const startedAt = performance.now();
  try {
    const { unrendered, unregistered, ...counts } = await tidyUp(db, retention, now(), signal);
    const durationMs = Math.round(performance.now() - startedAt);
    log.info({ ...counts, durationMs }, 'retention finished');
    if (unrendered.length > 0)
      log.warn({ days: unrendered }, 'old days kept: unrendered snapshots');
    if (unregistered.length > 0)
      log.warn({ days: unregistered }, 'old days kept: rows without snapshot');
  } catch (error) {
    log.error({ err: error }, 'retention failed');
    throw error;
  }
}
