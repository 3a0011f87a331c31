import { setImmediate } from 'node:timers/promises';
import type { DatabaseOrTransaction } from '../db/database.ts';
import { canWriteSameObject, type ExportTarget } from '../destinations/same-object.ts';
import { AppError } from '../shared/errors.ts';
import { listTargets } from './repository.ts';

/**
 * Refuses a config that would write the same object as another one of its environment. Configs that
 * are turned off count too, because they can be run manually and turned on again.
 *
 * @param configId id of the config, or null for a new one
 * @throws AppError `conflict` that names the other config
 */
export async function refuseSameObject(
  db: DatabaseOrTransaction,
  environmentId: string,
  configId: string | null,
  target: ExportTarget,
): Promise<void> {
  for (const other of await listTargets(db, environmentId)) {
    if (other.id !== configId && canWriteSameObject(environmentId, other, target)) {
      throw new AppError(
        'conflict',
        `The export config "${other.name}" (${other.id}) writes the same objects into the bucket "${target.destination.bucket}". Choose another folder, format or compression.`,
      );
    }
    // Yields to the event loop, because a comparison takes up to a few milliseconds.
    await setImmediate();
  }
}
