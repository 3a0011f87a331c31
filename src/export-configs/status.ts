import { type Plan, planAllows } from '../environments/plans.ts';
import type { RunError } from './run-error.ts';
import { nextSlot, type Schedule } from './schedule.ts';

/** Derives the status of an export config that callers see. */

/** Time and reason for which the service turned a config off. */
export interface AutoDisabled {
  readonly message: string;
  readonly at: Date;
}

export const exportOutcomes = ['never ran before', 'successful', 'failed'] as const;
export type ExportOutcome = (typeof exportOutcomes)[number];

/** Run history from which the status is derived, together with the config and the plan. */
export interface RunHistory {
  readonly running: boolean;
  /** Last finished run. */
  readonly last: {
    readonly state: 'successful' | 'failed';
    readonly finishedAt: Date;
    readonly error: RunError | null;
  } | null;
  readonly lastSuccessfulAt: Date | null;
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
