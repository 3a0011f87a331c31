import type { NotNull } from 'kysely';
import type { DatabaseOrTransaction } from '../db/database.ts';
import { type Attempt, isOf } from './attempts-repository.ts';

/** Records the multipart upload of an attempt, so that another worker can abort it. */

/** Records a multipart upload. @returns false if the attempt is not the current one of the run */
export async function rememberUpload(
  db: DatabaseOrTransaction,
  attempt: Attempt,
  uploadId: string,
): Promise<boolean> {
  const result = await db
    .updateTable('export_runs as run')
    .set({ upload_id: uploadId })
    .where(isOf(attempt))
    .where('run.state', '=', 'running')
    .executeTakeFirst();
  return result.numUpdatedRows === 1n;
}

/** Removes the recorded upload after it was aborted. */
export async function forgetUpload(db: DatabaseOrTransaction, attempt: Attempt): Promise<void> {
  await db
    .updateTable('export_runs as run')
    .set({ upload_id: null })
    .where(isOf(attempt))
    .execute();
}

/** Returns the ids of the multipart uploads of running runs of the environment. */
export async function readUploadsUnderWay(
  db: DatabaseOrTransaction,
  environmentId: string,
): Promise<string[]> {
  const rows = await db
    .selectFrom('export_runs')
    .select('upload_id')
    .where('environment_id', '=', environmentId)
    .where('state', '=', 'running')
    .where('upload_id', 'is not', null)
    .$narrowType<{ upload_id: NotNull }>()
    .execute();
  return rows.map(row => row.upload_id);
}
