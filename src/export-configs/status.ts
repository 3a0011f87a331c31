import { type Plan, planAllows } from '../environments/plans.ts';
import type { RunError } from './run-error.ts';
import type { RunTrigger } from './run-triggers.ts';
import { nextSlot, type Schedule } from './schedule.ts';

/** Derives the status of an export config that callers see. */

/** Time and reason for which the service turned a config off. */
export interface AutoDisabled {
  readonly message: string;
  readonly at: Date;
}

export const exportOutcomes = ['never ran before', 'successful', 'failed'] as const;
export type ExportOutcome = (typeof exportOutcomes)[number];

/** Unfinished run and the state of its job. */
export interface UnfinishedRun {
  readonly id: string;
  readonly trigger: RunTrigger;
  readonly snapshotDate: string;
  readonly state: 'queued' | 'running';
  readonly attempts: number;
  readonly error: RunError | null;
  /** False if the run waits for its snapshot. */
  readonly hasJob: boolean;
  /** True if the next free worker takes the job. */
  readonly isReady: boolean;
  /** Time from which a worker may take the job; null if it is not in the queue. */
  readonly startAfter: Date | null;
}

export const waitingReasons = ['snapshot', 'worker', 'retry'] as const;
export type WaitingFor = (typeof waitingReasons)[number];

/** Run history from which the status is derived, together with the config and the plan. */
export interface RunHistory {
  /** Unfinished run; null if there is none. */
  readonly current: UnfinishedRun | null;
  /** Last finished run. */
  readonly last: {
    readonly state: 'successful' | 'failed';
    readonly finishedAt: Date;
    readonly error: RunError | null;
  } | null;
  readonly lastSuccessfulAt: Date | null;
  readonly lastDeliveredDate: string | null;
}

/**
 * Status of an export config, `getExportConfigStatus` in openapi.yaml. Instants are ISO 8601 UTC.
 */
export interface ExportStatus {
  readonly status: ExportOutcome;
  readonly running: boolean;
  readonly lastRunAt: string | null;
  readonly lastSuccessfulRunAt: string | null;
  /** Next slot; null if the config is turned off or the plan does not allow it. */
  readonly nextRunAt: string | null;
  /** Error of the last finished run; null if it was successful. */
  readonly error: RunError | null;
  /** Newest snapshot date that was delivered. */
  readonly lastDeliveredDate: string | null;
  readonly currentRun: {
    readonly id: string;
    readonly trigger: RunTrigger;
    readonly snapshotDate: string;
    readonly state: 'queued' | 'running';
    readonly waitingFor: WaitingFor | null;
    readonly attempts: number;
    readonly nextAttemptAt: string | null;
    readonly error: RunError | null;
  } | null;
  /** Time and reason if the service turned the config off and it is still off, else null. */
  readonly turnedOff: {
    readonly code: 'too_many_failures';
    readonly message: string;
    readonly at: string;
  } | null;
}

export function describeStatus(
  config: {
    readonly enabled: boolean;
    readonly schedule: Schedule;
    readonly turnedOff: AutoDisabled | null;
  },
  history: RunHistory,
  plan: Plan,
  now: Date,
): ExportStatus {
  const { last } = history;
  const { turnedOff } = config;
  const willRun = config.enabled && planAllows(plan, 'automatic_export');
  return {
    status: last?.state ?? 'never ran before',
    running: history.current?.state === 'running',
    lastRunAt: last?.finishedAt.toISOString() ?? null,
    lastSuccessfulRunAt: history.lastSuccessfulAt?.toISOString() ?? null,
    nextRunAt: willRun ? nextSlot(config.schedule, now).toISOString() : null,
    error: last?.error ?? null,
    lastDeliveredDate: history.lastDeliveredDate,
    currentRun: history.current && describeCurrentRun(history.current),
    turnedOff: turnedOff && {
      code: 'too_many_failures',
      message: turnedOff.message,
      at: turnedOff.at.toISOString(),
    },
  };
}

function describeCurrentRun(run: UnfinishedRun): ExportStatus['currentRun'] {
  const { id, trigger, snapshotDate, state, attempts, error } = run;
  const waitingFor = waitingReasonOf(run);
  const nextAttemptAt = waitingFor === 'retry' ? (run.startAfter?.toISOString() ?? null) : null;
  return { id, trigger, snapshotDate, state, waitingFor, attempts, nextAttemptAt, error };
}

function waitingReasonOf(run: UnfinishedRun): WaitingFor | null {
  if (run.state === 'running') return null;
  if (!run.hasJob) return 'snapshot';
  // An active job is not in the queue. Its attempt is about to begin, or has just failed.
  const isBeginning = run.startAfter === null && run.attempts === 0;
  return run.isReady || isBeginning ? 'worker' : 'retry';
}
