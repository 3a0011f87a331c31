import type { RunJob } from '../db/job-queue.ts';
import { planAllows } from '../environments/plans.ts';
import type { RunError } from '../export-configs/run-error.ts';
import { beginJob, endSpanWith } from '../observability/tracing.ts';
import {
  beginAttempt,
  type JobContext,
  readJobContext,
  releaseJob,
} from './attempts-repository.ts';
import { executeAttempt } from './execute-attempt.ts';
import { postponeRun } from './outcomes-repository.ts';
import { recordFailure } from './record-outcome.ts';
import { openClient } from './run-client.ts';
import type { ClaimedJob, RunDependencies } from './run-dependencies.ts';
import { cancelReasons, internalError } from './run-errors.ts';
import { cleanUpUploads } from './upload-cleanup.ts';
import { forgetUpload } from './uploads-repository.ts';

/**
 * Executes one attempt at a run. Reads config, plan and run at its start: the job contains only
 * ids.
 * @param stopping aborts when this process must end; the run is then returned to the queue
 * @throws Error after which the queue retries
 */
export async function executeRun(
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
  const context = await readJobContext(db, job.data, job.id);
  if (context === null) return;
  // Checked first, because cleaning up the storage may take a minute.
  const cancelReason = context.isFinished ? null : cancelReasonOf(context);
  if (cancelReason !== null) await recordFailure(dependencies, context.attempt, cancelReason);
  const isWanted = !context.isFinished && cancelReason === null;
  // The clean-up after earlier attempts may take long too.
  const usesStorage = isWanted || context.attempt.number > 0;
  const pass = usesStorage
    ? slowLane.admit(context.attempt.environmentId, context.config.format)
    : null;
  if (isWanted && pass === null) return await postponeRun(db, jobs, context.attempt);
  if (usesStorage && pass === null && !job.isLast) throw new Error('the slow lane is full');
  const client = openClient(dependencies, context.config, pass?.pace);
  try {
    const signal = AbortSignal.any([job.signal, stopping]);
    const failure = await cleanUpUploads(client, dependencies, context, signal);
    // Aborting the previous upload failed. Do not start another: it would overwrite `upload_id`.
    if (failure !== null && !job.isLast) throw new Error(failure);
    await forgetUpload(db, context.attempt);
    const attempt = isWanted ? await beginAttempt(db, context.attempt, now()) : null;
    if (attempt === null || pass === null) return await releaseJob(db, context.attempt);
    await executeAttempt(dependencies, client, { ...context, attempt }, job, stopping, pass);
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
  const context = await readJobContext(db, job, jobId);
  if (context === null) return;
  const client = openClient(dependencies, context.config);
  try {
    await cleanUpUploads(client, dependencies, context, signal);
    await forgetUpload(db, context.attempt);
    await recordFailure(dependencies, context.attempt, context.lastError ?? internalError);
    await releaseJob(db, context.attempt);
    log.error({ ...job, attempts: context.attempt.number }, 'run lost');
  } finally {
    client?.destroy();
  }
}

function cancelReasonOf(context: JobContext): RunError | null {
  if (!planAllows(context.plan, 'automatic_export')) return cancelReasons.plan_upgrade_required;
  const isAutomatic = context.trigger === 'schedule' || context.trigger === 'redelivery';
  const isOff = isAutomatic && !context.config.enabled;
  return isOff || context.isDeleted ? cancelReasons.cancelled : null;
}
