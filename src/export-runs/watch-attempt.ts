import type { Database } from '../db/database.ts';
import { planAllows } from '../environments/plans.ts';
import type { RunError } from '../export-configs/status.ts';
import { stopReasons } from './run-errors.ts';
import { type Attempt, lookAtAttempt } from './update-run.ts';

/** Interval of the checks, and longest delay until a cancelled run stops. */
const intervalMs = 1_000;

/** Error that ends an attempt that may not continue. */
export class AttemptStopped extends Error {
  override readonly name = 'AttemptStopped';
  /** Error to record; null if the run was already updated or deleted. */
  readonly error: RunError | null;

  constructor(error: RunError | null) {
    super(error?.message ?? 'The run was stopped, taken over or deleted.');
    this.error = error;
  }
}

export interface AttemptWatch {
  /** Aborts with an AttemptStopped. */
  readonly signal: AbortSignal;
  /** Checks now. @throws AttemptStopped, or the driver's error */
  look(): Promise<void>;
  end(): void;
}

/**
 * Checks every second whether the attempt may continue. It ends if its config or environment was
 * deleted, the config was turned off, the plan was lowered, or another worker took over.
 */
export function watchAttempt(db: Database, attempt: Attempt): AttemptWatch {
  return watch(async () => {
    const { isCurrent, plan } = await lookAtAttempt(db, attempt);
    const allowed = plan !== null && planAllows(plan, 'automatic_export');
    if (isCurrent && allowed) return null;
    return new AttemptStopped(isCurrent ? stopReasons.plan_upgrade_required : null);
  });
}

/** Checks every second whether the run was deleted with its environment or config. */
export function watchDeletion(db: Database, attempt: Attempt): AttemptWatch {
  return watch(async () => {
    const { plan } = await lookAtAttempt(db, attempt);
    return plan === null ? new AttemptStopped(null) : null;
  });
}

function watch(findReason: () => Promise<AttemptStopped | null>): AttemptWatch {
  const controller = new AbortController();
  const look = async () => {
    const reason = await findReason();
    if (reason === null) return;
    controller.abort(reason);
    throw reason;
  };
  let isLooking = false;
  const timer = setInterval(async () => {
    if (isLooking) return;
    isLooking = true;
    // An unreachable database is no reason to stop. The check before completion decides.
    await look().catch(() => {});
    isLooking = false;
  }, intervalMs);
  return { signal: controller.signal, look, end: () => clearInterval(timer) };
}
