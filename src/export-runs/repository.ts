import { randomUUID } from 'node:crypto';
import type { Selectable, Transaction } from 'kysely';
import { type Actor, recordChange } from '../audit/audit-log-repository.ts';
import type { DatabaseOrTransaction } from '../db/database.ts';
import { isAfter, type ListPosition } from '../db/newest-first.sql.ts';
import type { Tables } from '../db/tables.ts';
import { type RunError, toRunError } from '../export-configs/run-error.ts';
import type { RunTrigger } from '../export-configs/run-triggers.ts';
import { AppError, notFound } from '../shared/errors.ts';
import { initialState, type RunState } from './run-states.ts';

type RunRow = Selectable<Tables['export_runs']>;

/** `Retry-After` in seconds while another run of the config is unfinished. */
const retryAfterSeconds = '10';

/** Execution of a config. Instants are ISO 8601 UTC. */
export interface Run {
  readonly id: string;
  readonly configId: string;
  readonly trigger: RunTrigger;
  /** Backfill that started the run; null for other triggers. */
  readonly backfillId: string | null;
  readonly slot: string | null;
  readonly snapshotDate: string;
  readonly state: RunState;
  readonly attempts: number;
  readonly createdAt: string;
  /** Start of the first attempt. */
  readonly startedAt: string | null;
  readonly finishedAt: string | null;
  readonly rowCount: number | null;
  readonly bytes: number | null;
  readonly sha256: string | null;
  readonly objectKey: string | null;
  /** Error of the last attempt, also while the run is queued again. */
  readonly error: RunError | null;
}

/**
 * Returns a run.
 * @param configId null for any config of the environment
 * @throws AppError `not_found`
 */
export async function getRun(
  db: DatabaseOrTransaction,
  environmentId: string,
  configId: string | null,
  id: string,
): Promise<Run> {
  const row = await selectRuns(db, environmentId)
    .where('run.id', '=', id)
    .where(({ eb, val }) => (configId === null ? val(true) : eb('run.config_id', '=', configId)))
    .executeTakeFirst();
  if (row === undefined) throw notFound('run');
  return toRun(row);
}

/** Lists runs before `before`, newest first. */
export async function listRuns(
  db: DatabaseOrTransaction,
  environmentId: string,
  configId: string,
  { before, limit }: { before: ListPosition | null; limit: number },
): Promise<Run[]> {
  const rows = await selectRuns(db, environmentId)
    .where('run.config_id', '=', configId)
    .where(isAfter('run', before))
    .orderBy('run.created_at', 'desc')
    .orderBy('run.id', 'desc')
    .limit(limit)
    .execute();
  return rows.map(toRun);
}

/**
 * Inserts a manual run.
 * @param snapshotDate null for the newest snapshot
 * @throws AppError `not_found` if the config or the snapshot does not exist, `conflict` if the
 * config has an unfinished run
 */
export async function insertManualRun(
  trx: Transaction<Tables>,
  actor: Actor,
  wanted: { environmentId: string; configId: string; snapshotDate: string | null; now: Date },
): Promise<Run> {
  // The lock ensures that a concurrent deletion of the config sees this run.
  const config = await trx
    .selectFrom('export_configs')
    .select('id')
    .where('environment_id', '=', wanted.environmentId)
    .where('id', '=', wanted.configId)
    .where('deleted_at', 'is', null)
    .forShare()
    .executeTakeFirst();
  if (config === undefined) throw notFound('export config');
  const snapshot = await trx
    .selectFrom('snapshots')
    .select('snapshot_date')
    .where('environment_id', '=', wanted.environmentId)
    .where(({ eb, val }) =>
      wanted.snapshotDate === null ? val(true) : eb('snapshot_date', '=', wanted.snapshotDate),
    )
    .orderBy('snapshot_date', 'desc')
    .limit(1)
    // Retention keeps snapshots that a run has to read. The lock ensures that it sees this run.
    .forKeyShare()
    .executeTakeFirst();
  if (snapshot === undefined) throw notFound('snapshot');
  const row = await trx
    .insertInto('export_runs')
    .values({
      environment_id: wanted.environmentId,
      config_id: wanted.configId,
      id: randomUUID(),
      trigger: 'manual',
      slot: null,
      snapshot_date: snapshot.snapshot_date,
      state: initialState,
      created_at: wanted.now,
    })
    .onConflict(conflict => conflict.doNothing())
    .returningAll()
    .executeTakeFirst();
  if (row === undefined) throw await unfinishedRun(trx, wanted);
  await recordChange(trx, actor, {
    environmentId: wanted.environmentId,
    action: 'export_run.started',
    targetId: row.id,
    details: { configId: wanted.configId, snapshotDate: row.snapshot_date },
  });
  return toRun(row);
}

/** Returns the error for a config that already has an unfinished run. */
async function unfinishedRun(
  trx: Transaction<Tables>,
  { environmentId, configId }: { environmentId: string; configId: string },
): Promise<AppError> {
  const run = await trx
    .selectFrom('export_runs')
    .select(['id', 'state'])
    .where('environment_id', '=', environmentId)
    .where('config_id', '=', configId)
    .where('state', 'in', ['queued', 'running'])
    .executeTakeFirst();
  // The run may have ended since the insertion failed.
  const what = run === undefined ? 'Another run' : `The ${run.state} run ${run.id}`;
  const detail = `${what} of this config is unfinished. Wait for it or cancel it.`;
  return new AppError('conflict', detail, { headers: { 'retry-after': retryAfterSeconds } });
}

/**
 * Selects runs whose config is not deleted. Callers do not see other runs, though their rows may
 * still exist.
 */
function selectRuns(db: DatabaseOrTransaction, environmentId: string) {
  return db
    .selectFrom('export_runs as run')
    .innerJoin('export_configs as config', join =>
      join
        .onRef('config.environment_id', '=', 'run.environment_id')
        .onRef('config.id', '=', 'run.config_id')
        .on('config.deleted_at', 'is', null),
    )
    .selectAll('run')
    .where('run.environment_id', '=', environmentId);
}

function toRun(row: RunRow): Run {
  return {
    id: row.id,
    configId: row.config_id,
    // The check constraints allow nothing else.
    trigger: row.trigger as RunTrigger,
    backfillId: row.backfill_id,
    slot: row.slot?.toISOString() ?? null,
    snapshotDate: row.snapshot_date,
    state: row.state as Run['state'],
    attempts: row.attempts,
    createdAt: row.created_at.toISOString(),
    startedAt: row.started_at?.toISOString() ?? null,
    finishedAt: row.finished_at?.toISOString() ?? null,
    rowCount: row.row_count,
    bytes: row.bytes,
    sha256: row.sha256,
    objectKey: row.object_key,
    error: toRunError(row),
  };
}
