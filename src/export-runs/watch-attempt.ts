import type { Database } from '../db/database.ts';
import { planAllows } from '../environments/plans.ts';
import type { RunError } from '../export-configs/run-error.ts';
import { type Attempt, getAttemptStatus } from './attempts-repository.ts';
import { cancelReasons } from './run-errors.ts';

/** Interval of the checks, and longest delay until the attempt of a cancelled run ends. */
const intervalMs = 1_000;

/** Error that ends an attempt that may not continue. */
export class AttemptCancelledError extends Error {
  override readonly name = 'AttemptCancelledError';
  /** Error to record; null if the run was already updated or deleted. */
  readonly error: RunError | null;

  constructor(error: RunError | null) {
    super(error?.message ?? 'The run was cancelled, taken over or deleted.');
    this.error = error;
  }
}

export interface AttemptWatch {
  /** Aborts with an AttemptCancelledError. */
  readonly signal: AbortSignal;
  /** Checks now. @throws AttemptCancelledError, or the driver's error */
  check(): Promise<void>;
  end(): void;
}

/**
 * Checks every second whether the attempt may continue. It ends if its config was deleted or turned
 * off, its environment was deleted, the plan was lowered, or another worker took over.
 */
export function watchAttempt(db: Database, attempt: Attempt): AttemptWatch {
  return watch(async () => {
    const { isCurrent, plan } = await getAttemptStatus(db, attempt);
    const allowed = plan !== null && planAllows(plan, 'automatic_export');
    if (isCurrent && allowed) return null;
    return new AttemptCancelledError(isCurrent ? cancelReasons.plan_upgrade_required : null);
  });
}

/** Checks every second whether the run was deleted with its environment or config. */
export function watchDeletion(db: Database, attempt: Attempt): AttemptWatch {
  return watch(async () => {
    const { plan } = await getAttemptStatus(db, attempt);
    return plan === null ? new AttemptCancelledError(null) : null;
  });
}

function watch(findReason: () => Promise<AttemptCancelledError | null>): AttemptWatch {
  const controller = new AbortController();
  const check = async () => {
    const reason = await findReason();
    if (reason === null) return;
    controller.abort(reason);
    throw reason;
  };
  let isChecking = false;
  const timer = setInterval(async () => {
    if (isChecking) return;
    isChecking = true;
    // An unreachable database is no reason to cancel. The check before completion decides.
    await check().catch(() => {});
    isChecking = false;
  }, intervalMs);
  return { signal: controller.signal, check, end: () => clearInterval(timer) };
}
