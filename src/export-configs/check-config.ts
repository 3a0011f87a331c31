import type { Access } from '../destinations/destination.ts';
import { objectKey } from '../destinations/object-key.ts';
import { type CheckResult, checkDestination } from '../destinations/s3/check.ts';
import type { ClientEnvironment } from '../destinations/s3/client.ts';
import type { CheckPlaces } from '../shared/check-places.ts';
import { AppError } from '../shared/errors.ts';
import type { ConfigSettings } from './repository.ts';
import { nextSlot, snapshotDateOf } from './schedule.ts';

export interface CheckDependencies {
  readonly clientEnvironment: ClientEnvironment;
  readonly checkPlaces: CheckPlaces;
}

/**
 * Checks the bucket with the key that the next run will write. Takes at most 15 s. Errors are in
 * the result.
 *
 * @throws AppError `rate_limited` if too many checks are in progress
 */
export async function checkConfig(
  { clientEnvironment, checkPlaces }: CheckDependencies,
  environmentId: string,
  { destination, schedule, format, compression, encryption }: ConfigSettings,
  access: Access,
  now: Date,
): Promise<CheckResult> {
  const snapshotDate = snapshotDateOf(nextSlot(schedule, now));
  const name = { environmentId, snapshotDate, format, compression };
  const key = objectKey(destination.key, name);
  const release = await checkPlaces.acquire(environmentId);
  return await checkDestination(
    { destination, encryption, access, objectKey: key, onEnd: release },
    clientEnvironment,
  );
}

/**
 * Requires a successful check.
 * @throws AppError `storage_validation_failed` with the first error as `storageError` and all
 * `checks`
 */
export function requireValid(result: CheckResult): void {
  const storageError = result.checks.find(check => check.error !== null)?.error;
  if (storageError === undefined || storageError === null) return;
  throw new AppError('storage_validation_failed', storageError.message, {
    members: { storageError, checks: result.checks },
  });
}
