import type { Database } from '../db/database.ts';
import { planAllows } from '../environments/plans.ts';
import type { RunError } from '../export-configs/status.ts';
import { stopReasons } from './run-errors.ts';
import { type Attempt, lookAtAttempt } from './update-run.ts';

/** How soon a run stops once somebody wants it to. */
const intervalMs = 1_000;

/** Thrown into an attempt that may not go on. */
export class AttemptStopped extends Error {
  override readonly name = 'AttemptStopped';
  /** What to write; null: another wrote already, or the run is gone. */
  readonly error: RunError | null;

  constructor(error: RunError | null) {
    super(error?.message ?? 'The run was stopped, taken over or deleted.');
    this.error = error;
  }
}

export interface AttemptWatch {
  /** Aborts with an AttemptStopped. */
  readonly signal: AbortSignal;
  /** Looks now. @throws AttemptStopped, or what the database throws */
  look(): Promise<void>;
  end(): void;
}

/** Looks at the run's row every second: config turned off or deleted, environment gone, plan lowered, taken over. */
export function watchAttempt(db: Database, attempt: Attempt): AttemptWatch {
  return watch(async () => {
    const { isCurrent, plan } = await lookAtAttempt(db, attempt);
    const allowed = plan !== null && planAllows(plan, 'automatic_export');
    if (isCurrent && allowed) return null;
    return new AttemptStopped(isCurrent ? stopReasons.plan_upgrade_required : null);
  });
}

/** Looks every second whether the run was deleted with its environment or config. */
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
    // An outage of the database is no reason to stop; the look at the end decides.
    await look().catch(() => {});
    isLooking = false;
  }, intervalMs);
  return { signal: controller.signal, look, end: () => clearInterval(timer) };
}
