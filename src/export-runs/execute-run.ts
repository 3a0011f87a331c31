import type { S3Client } from '@aws-sdk/client-s3';
import type { PgBoss } from 'pg-boss';
import type { Logger } from 'pino';
import type { EncryptionKey } from '../config/config.ts';
import type { Database } from '../db/database.ts';
import type { RunJob } from '../db/job-queue.ts';
import { objectKey } from '../destinations/object-key.ts';
import { abortOrphanedUploads, abortUpload } from '../destinations/s3/abort-upload.ts';
import { type ClientEnvironment, createS3Client, runPatience } from '../destinations/s3/client.ts';
import { isTransient, StorageError, type StorageErrorCode } from '../destinations/s3/errors.ts';
import type { StoragePace } from '../destinations/s3/request-handler.ts';
import { planAllows } from '../environments/plans.ts';
import { secretOf } from '../export-configs/service.ts';
import type { RunError } from '../export-configs/status.ts';
import type { ExportSource } from '../exports/open-export.ts';
import type { AttemptOutcome, Metrics } from '../observability/metrics.ts';
import { beginJob, currentSpan, endSpanWith } from '../observability/tracing.ts';
import type { Renderer } from '../snapshots/render/render-snapshot.ts';
import {
  describeFailure,
  internalError,
  SnapshotAbsentError,
  snapshotMissing,
  stopReasons,
} from './run-errors.ts';
import type { LanePass, SlowLane } from './slow-lane.ts';
import { transfer } from './transfer.ts';
import * as updateRun from './update-run.ts';
import { AttemptStopped, type AttemptWatch, watchAttempt, watchDeletion } from './watch-attempt.ts';

export interface RunDependencies {
  readonly db: Database;
  readonly jobs: PgBoss;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly now: () => Date;
  readonly encryptionKeys: readonly [EncryptionKey, ...EncryptionKey[]];
  readonly clientEnvironment: ClientEnvironment;
  /** Pools from which runs read. */
  readonly runSource: ExportSource;
  readonly renderer: Renderer;
  readonly slowLane: SlowLane;
}

/** Job that this worker received from the queue. */
export interface ClaimedJob {
  readonly id: string;
  readonly data: RunJob;
  /** True if no attempt follows. */
  readonly isLast: boolean;
  /** Aborts when the queue has given the job to another worker. */
  readonly signal: AbortSignal;
}

/**
 * Executes one attempt at a run. Reads config, plan and run at its start: the job contains only
 * ids.
 * @param stopping aborts when this process must end; the run is then returned to the queue
 * @throws Error after which the queue retries
 */
export async function runExport(
  dependencies: RunDependencies,
  job: ClaimedJob,
  stopping: AbortSignal,
): Promise<void> {
  const { environmentId, configId, runId, requestId } = job.data;
  const attributes = {
    'whx.environment.id': environmentId,
    'whx.config.id': configId,
    'whx.run.id': runId,
  };
  await endSpanWith(beginJob('run', attributes, job.data), async span => {
    const log = dependencies.log.child({
      ...span.ids,
      ...(requestId !== undefined && { requestId }),
    });
    await attemptRun({ ...dependencies, log }, job, stopping);
  });
}

async function attemptRun(
  dependencies: RunDependencies,
  job: ClaimedJob,
  stopping: AbortSignal,
): Promise<void> {
  const { db, jobs, now, slowLane } = dependencies;
  const context = await updateRun.readJobContext(db, job.data, job.id);
  if (context === null) return;
  // Checked first, because cleaning up the storage may take a minute.
  const stopReason = context.isFinished ? null : stopReasonOf(context);
  if (stopReason !== null) await recordFailure(dependencies, context.attempt, stopReason);
  const isWanted = !context.isFinished && stopReason === null;
  const pass = isWanted ? slowLane.admit(context.attempt.environmentId) : null;
  if (isWanted && pass === null) return await updateRun.postpone(db, jobs, context.attempt);
  const client = openClient(dependencies, context, pass?.pace);
  try {
    const signal = AbortSignal.any([job.signal, stopping]);
    const fault = await cleanUp(client, dependencies, context, signal);
    // Aborting the previous upload failed. Do not start another: it would overwrite `upload_id`.
    if (fault !== null && !job.isLast) throw new Error(fault);
    await updateRun.forgetUpload(db, context.attempt);
    const attempt = isWanted ? await updateRun.beginAttempt(db, context.attempt, now()) : null;
    if (attempt === null || pass === null) return await updateRun.letGo(db, context.attempt);
    await carryOut(dependencies, client, { ...context, attempt }, job, stopping, pass);
  } finally {
    pass?.leave();
    client?.destroy();
  }
}

/** Cleans up the bucket after a run whose last worker died, and ends the run. */
export async function failLostRun(
  dependencies: RunDependencies,
  job: RunJob,
  jobId: string,
  signal: AbortSignal,
): Promise<void> {
  const { db, log } = dependencies;
  const context = await updateRun.readJobContext(db, job, jobId);
  if (context === null) return;
  const client = openClient(dependencies, context);
  try {
    await cleanUp(client, dependencies, context, signal);
    await updateRun.forgetUpload(db, context.attempt);
    await recordFailure(dependencies, context.attempt, context.lastError ?? internalError);
    await updateRun.letGo(db, context.attempt);
    log.error(
      { ...job, attempts: context.attempt.number },
      'run lost: every attempt ended with its worker',
    );
  } finally {
    client?.destroy();
  }
}

async function carryOut(
  dependencies: RunDependencies,
  client: S3Client | null,
  context: updateRun.JobContext,
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
    const result = await send(
      dependencies,
      client,
      context,
      watch,
      AbortSignal.any([ending, laneWatch.signal]),
    );
    const recorded = await updateRun.recordSuccess(db, jobs, attempt, result, now());
    const sent = { rowCount: result.rowCount, bytes: result.bytes };
    if (recorded) metrics.runsEnded('successful', null);
    report(recorded ? 'successful' : 'stopped', null, sent, sent);
  } catch (thrown) {
    const decided = await decide(dependencies, context, job, stopping, thrown);
    const { outcome, error } = decided;
    if (outcome === 'failed' || outcome === 'stopped') {
      await sweep(client, dependencies, context, ending);
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
    await updateRun.letGo(db, attempt);
  }
  const left = await updateRun.readJobContext(db, job.data, job.id);
  if (left?.isFinished === true && left.attempt.number === attempt.number) {
    throw new Error('upload left behind');
  }
}

async function send(
  dependencies: RunDependencies,
  client: S3Client | null,
  context: updateRun.JobContext,
  watch: AttemptWatch,
  signal: AbortSignal,
): Promise<updateRun.RunResult> {
  const { db, renderer, runSource, now } = dependencies;
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
      if (!(await updateRun.rememberUpload(db, attempt, uploadId))) throw new AttemptStopped(null);
      if (asked > 1) await sweep(used, dependencies, context, signal);
    },
    onMultipartAborted: () => updateRun.forgetUpload(db, attempt),
    beforeCompletion: watch.look,
    now,
  });
}

/** Records the outcome of an unsuccessful attempt. */
async function decide(
  dependencies: RunDependencies,
  { attempt, trigger, snapshotDate }: updateRun.JobContext,
  job: ClaimedJob,
  stopping: AbortSignal,
  thrown: unknown,
): Promise<{ outcome: AttemptOutcome; error: RunError | null }> {
  const { db, jobs } = dependencies;
  if (thrown instanceof AttemptStopped) {
    if (thrown.error === null) return { outcome: 'stopped', error: null };
    await recordFailure(dependencies, attempt, thrown.error);
    return { outcome: 'failed', error: thrown.error };
  }
  if (stopping.aborted) {
    await updateRun.handBack(db, jobs, attempt);
    return { outcome: 'handed_back', error: null };
  }
  if (job.signal.aborted) return { outcome: 'stopped', error: null };
  if (thrown instanceof SlowLaneFullError) {
    await updateRun.postpone(db, jobs, attempt);
    return { outcome: 'handed_back', error: null };
  }
  if (thrown instanceof SnapshotAbsentError && !(await updateRun.isSnapshotLoaded(db, attempt))) {
    if (trigger === 'schedule') {
      await updateRun.handBack(db, jobs, attempt);
      return { outcome: 'waiting', error: null };
    }
    const error = snapshotMissing(snapshotDate);
    await recordFailure(dependencies, attempt, error);
    return { outcome: 'failed', error };
  }
  const { error, retry } = describeFailure(thrown, attempt.number);
  if (retry && !job.isLast) {
    const recorded = await updateRun.recordRetry(db, attempt, error);
    return { outcome: recorded ? 'retry' : 'stopped', error };
  }
  await recordFailure(dependencies, attempt, error);
  return { outcome: 'failed', error };
}

async function recordFailure(
  { db, jobs, metrics, now }: RunDependencies,
  attempt: updateRun.Attempt,
  error: RunError,
): Promise<void> {
  if (await updateRun.recordFailure(db, jobs, attempt, error, now()))
    metrics.runsEnded('failed', error.code);
}

function stopReasonOf(context: updateRun.JobContext): RunError | null {
  if (!planAllows(context.plan, 'automatic_export')) return stopReasons.plan_upgrade_required;
  const isOff = context.trigger === 'schedule' && !context.config.enabled;
  return isOff || context.isDeleted ? stopReasons.cancelled : null;
}

/**
 * Aborts uploads that earlier attempts left in the bucket. Takes at most 80 s: 20 s for the
 * recorded upload, 60 s for a sweep.
 *
 * @returns the error code if an upload is left that may be aborted later
 * @throws the reason of the signal if it aborts
 */
async function cleanUp(
  client: S3Client | null,
  dependencies: RunDependencies,
  context: updateRun.JobContext,
  signal: AbortSignal,
): Promise<StorageErrorCode | null> {
  if (context.attempt.number === 0 || client === null) return null;
  const fault = await abortRecordedUpload(client, dependencies, context, signal);
  if (fault !== null) return fault;
  await sweep(client, dependencies, context, signal);
  signal.throwIfAborted();
  return null;
}

async function abortRecordedUpload(
  client: S3Client,
  dependencies: RunDependencies,
  context: updateRun.JobContext,
  signal: AbortSignal,
): Promise<StorageErrorCode | null> {
  const { attempt, config, uploadId } = context;
  if (uploadId === null) return null;
  try {
    await abortUpload(client, config.destination, keyOf(context), uploadId, signal);
    return null;
  } catch (error) {
    signal.throwIfAborted();
    warnOfUpload(dependencies, attempt, error);
    const code = error instanceof StorageError ? error.fault.code : 'unknown';
    // An unknown code may mean that the upload does not exist. The run does not wait for that.
    return isTransient(code) && code !== 'unknown' ? code : null;
  }
}

/** Limit of a sweep in milliseconds. `abortOrphanedUploads` limits the number of uploads. */
const sweepLimitMs = 60_000;

/**
 * Aborts uploads of the run's key that no run has recorded, if the access key may list them. A
 * start whose answer was lost may have created one. Uploads in progress are kept, because another
 * config may write the same key. Does nothing if a later attempt has begun, because that one sweeps
 * too. Ends when the environment is deleted.
 */
async function sweep(
  client: S3Client | null,
  dependencies: RunDependencies,
  context: updateRun.JobContext,
  signal: AbortSignal,
): Promise<void> {
  if (client === null) return;
  const { db } = dependencies;
  const { attempt, config } = context;
  const deletion = watchDeletion(db, attempt);
  const limit = AbortSignal.any([signal, deletion.signal, AbortSignal.timeout(sweepLimitMs)]);
  try {
    await deletion.look();
    const now = await updateRun.readJobContext(db, attempt, attempt.jobId);
    if (now !== null && now.attempt.number !== attempt.number) return;
    const underWay = await updateRun.readUploadsUnderWay(db, attempt.environmentId);
    await abortOrphanedUploads(client, config.destination, keyOf(context), underWay, limit);
  } catch (error) {
    warnOfUpload(dependencies, attempt, error);
  } finally {
    deletion.end();
  }
}

function warnOfUpload(
  { log }: RunDependencies,
  { runId }: updateRun.Attempt,
  error: unknown,
): void {
  log.warn({ runId, err: describeForLog(error) }, 'an unfinished upload could not be aborted');
}

function keyOf({ attempt, config, snapshotDate }: updateRun.JobContext): string {
  const { environmentId } = attempt;
  const { destination, compression } = config;
  return objectKey(destination.key, { environmentId, snapshotDate, compression });
}

/**
 * Returns null if the secret cannot be decrypted. The attempt reports that when it needs the
 * secret.
 */
function openClient(
  dependencies: RunDependencies,
  { config }: updateRun.JobContext,
  pace?: StoragePace,
): S3Client | null {
  try {
    return makeClient(dependencies, config, pace);
  } catch {
    return null;
  }
}

function makeClient(
  {
    encryptionKeys,
    clientEnvironment,
  }: Pick<RunDependencies, 'encryptionKeys' | 'clientEnvironment'>,
  config: updateRun.JobContext['config'],
  pace?: StoragePace,
): S3Client {
  const secretAccessKey = secretOf({ encryptionKeys }, config);
  const credentials = { accessKeyId: config.accessKeyId, secretAccessKey };
  return createS3Client(config.destination, credentials, clientEnvironment, runPatience, pace);
}

/** Error for an attempt with a slow storage while the slow lane is full. */
class SlowLaneFullError extends Error {
  override readonly name = 'SlowLaneFullError';
}

/**
 * Checks every second whether the attempt may continue. Otherwise `signal` aborts with a
 * SlowLaneFullError.
 */
function watchLane(pass: LanePass): { readonly signal: AbortSignal; end(): void } {
  const controller = new AbortController();
  const timer = setInterval(() => {
    if (!pass.mayContinue()) controller.abort(new SlowLaneFullError('The slow lane is full.'));
  }, 1_000);
  return { signal: controller.signal, end: () => clearInterval(timer) };
}

const maxLoggedText = 300;

/**
 * Describes an error for the log. Errors of the S3 client hold the whole request, so only harmless
 * members are logged. The endpoint chooses the message, so it is truncated.
 */
export function describeForLog(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { type: typeof error };
  const { name, message, stack, cause } = error;
  const { code, Code } = error as { code?: unknown; Code?: unknown };
  return {
    type: cut(name),
    message: cut(message),
    stack: framesOf(stack),
    code: cut(Code ?? code),
    ...(cause instanceof Error && { cause: describeForLog(cause) }),
  };
}

function cut(value: unknown): unknown {
  return typeof value === 'string' ? value.slice(0, maxLoggedText) : undefined;
}

/** The first line of a stack is the message. */
function framesOf(stack: unknown): string | undefined {
  if (typeof stack !== 'string') return undefined;
  const frames = stack
    .slice(-4_000)
    .split('\n')
    .filter(line => /^ {4}at /.test(line));
  return frames.slice(0, 20).join('\n');
}
