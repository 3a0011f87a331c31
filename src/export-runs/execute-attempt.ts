import type { S3Client } from '@aws-sdk/client-s3';
import type { AttemptOutcome } from '../observability/metrics.ts';
import { currentSpan } from '../observability/tracing.ts';
import {
  type Attempt,
  beginCompletion,
  type JobContext,
  readJobContext,
  releaseJob,
} from './attempts-repository.ts';
import { describeForLog } from './describe-for-log.ts';
import { enqueueNextRun } from './enqueue-due.sql.ts';
import { type RunResult, recordSuccess } from './outcomes-repository.ts';
import { recordOutcome } from './record-outcome.ts';
import { makeClient } from './run-client.ts';
import type { ClaimedJob, RunDependencies } from './run-dependencies.ts';
import { type LanePass, watchLane } from './slow-lane.ts';
import { transfer } from './transfer.ts';
import { abortOrphanedUploadsOf } from './upload-cleanup.ts';
import { forgetUpload, rememberUpload } from './uploads-repository.ts';
import { AttemptCancelledError, type AttemptWatch, watchAttempt } from './watch-attempt.ts';

/**
 * Executes an attempt that has begun: uploads the file and records the outcome.
 * @param client null if the secret could not be decrypted
 * @param stopping aborts when this process must end; the run is then returned to the queue
 * @throws Error after which the queue retries
 */
export async function executeAttempt(
  dependencies: RunDependencies,
  client: S3Client | null,
  context: JobContext,
  job: ClaimedJob,
  stopping: AbortSignal,
  pass: LanePass,
): Promise<void> {
  const { db, jobs, log, metrics, now } = dependencies;
  const { attempt } = context;
  const watch = watchAttempt(db, attempt);
  const laneWatch = watchLane(pass);
  const ending = AbortSignal.any([job.signal, stopping]);
  const startedAt = performance.now();
  const report = (
    outcome: AttemptOutcome,
    code: string | null,
    more: object = {},
    sent = { bytes: 0, rowCount: 0 },
  ) => {
    const durationMs = Math.round(performance.now() - startedAt);
    const { bytes, rowCount: rows } = sent;
    metrics.attemptEnded({ outcome, code, bytes, rows, seconds: durationMs / 1000 });
    const { environmentId, configId, runId, number } = attempt;
    const level = outcome === 'failed' ? 'warn' : 'info';
    currentSpan().add({ 'whx.outcome': outcome, ...(code !== null && { 'whx.error.code': code }) });
    log[level](
      { environmentId, configId, runId, attempt: number, outcome, durationMs, ...more },
      'run',
    );
  };
  try {
    const signal = AbortSignal.any([ending, laneWatch.signal]);
    const result = await send(dependencies, client, context, watch, signal);
    const recorded = await recordSuccess(db, jobs, attempt, result, now());
    const sent = { rowCount: result.rowCount, bytes: result.bytes };
    if (recorded) metrics.runsEnded('successful', null);
    report(recorded ? 'successful' : 'cancelled', null, sent, sent);
  } catch (thrown) {
    const { outcome, error } = await recordOutcome(dependencies, context, job, stopping, thrown);
    if (outcome === 'failed' || outcome === 'cancelled') {
      await abortOrphanedUploadsOf(client, dependencies, context, ending);
    }
    report(
      outcome,
      error?.code ?? null,
      error === null ? {} : { code: error.code, err: describeForLog(thrown) },
    );
    // The queue stores the thrown error, so it contains only the code.
    if (outcome === 'retry') throw new Error(error?.code ?? 'again');
  } finally {
    watch.end();
    laneWatch.end();
    // Also for a cancelled run, if nothing of it is left in the bucket.
    await releaseJob(db, attempt);
  }
  await startNextRun(dependencies, attempt);
  const left = await readJobContext(db, job.data, job.id);
  if (left?.isFinished === true && left.attempt.number === attempt.number) {
    throw new Error('upload left behind');
  }
}

/** Starts the next run of the config at once. After an error the next tick starts it. */
async function startNextRun(
  { db, jobs, log, now }: RunDependencies,
  { environmentId, configId }: Attempt,
): Promise<void> {
  const config = { environmentId, id: configId };
  await db
    .transaction()
    .execute(trx => enqueueNextRun(trx, jobs, config, now()))
    .catch((error: unknown) => log.warn({ err: error, ...config }, 'next run not started'));
}

async function send(
  dependencies: RunDependencies,
  client: S3Client | null,
  context: JobContext,
  watch: AttemptWatch,
  signal: AbortSignal,
): Promise<RunResult> {
  const { db, renderer, runSource, parquetPlaces, now } = dependencies;
  const { attempt, config, snapshotDate } = context;
  // Decrypts the secret again if that failed before, so that this attempt fails with the error.
  const used = client ?? makeClient(dependencies, config);
  const { environmentId } = attempt;
  const stop = AbortSignal.any([watch.signal, signal]);
  await renderer.render({ environmentId, date: snapshotDate }, stop);
  return await transfer(runSource, used, {
    environmentId,
    configId: attempt.configId,
    runId: attempt.runId,
    snapshotDate,
    config,
    signal: stop,
    onMultipartStarted: async (uploadId, asked) => {
      if (!(await rememberUpload(db, attempt, uploadId))) throw new AttemptCancelledError(null);
      if (asked > 1) await abortOrphanedUploadsOf(used, dependencies, context, signal);
    },
    onMultipartAborted: () => forgetUpload(db, attempt),
    beforeCompletion: watch.check,
    beforeLastRequest: async () => {
      if (!(await beginCompletion(db, attempt))) throw new AttemptCancelledError(null);
    },
    parquetPlaces,
    now,
  });
}
