import { type Plan, planAllows } from '../environments/plans.ts';
import { nextSlot, type Schedule } from '../export-runs/schedule.ts';

/** What a customer asks first about an automatic export. Pure. */

/** Why a run failed. */
export interface RunError {
  readonly code: string;
  readonly message: string;
}

/** When and why a config turned itself off. */
export interface TurnedOff {
  readonly message: string;
  readonly at: Date;
}

/** All that the status is made of, besides the config and the plan. */
export interface RunHistory {
  readonly running: boolean;
  /** The last run that finished. */
  readonly last: {
    readonly state: 'successful' | 'failed';
    readonly finishedAt: Date;
    readonly error: RunError | null;
  } | null;
  readonly lastSuccessfulAt: Date | null;
}

/** Contract, section 6. Instants are ISO-8601 UTC and say when a run finished. */
export interface ExportStatus {
  readonly status: 'never ran before' | 'successful' | 'failed';
  readonly running: boolean;
  readonly lastRunAt: string | null;
  readonly lastSuccessfulRunAt: string | null;
  /** Null when the config is off or the plan does not allow it. */
  readonly nextRunAt: string | null;
  /** Of the last finished run; null once one succeeds. */
  readonly error: RunError | null;
  /** Null unless it turned itself off and is still off. */
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
    readonly turnedOff: TurnedOff | null;
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
    running: history.running,
    lastRunAt: last?.finishedAt.toISOString() ?? null,
    lastSuccessfulRunAt: history.lastSuccessfulAt?.toISOString() ?? null,
    nextRunAt: willRun ? nextSlot(config.schedule, now).toISOString() : null,
    error: last?.error ?? null,
    turnedOff: turnedOff && {
      code: 'too_many_failures',
      message: turnedOff.message,
      at: turnedOff.at.toISOString(),
    },
  };
}
