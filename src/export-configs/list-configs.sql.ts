import { sql } from 'kysely';
import type { DatabaseOrTransaction } from '../db/database.ts';
import { runQueue } from '../db/job-queue.ts';
import { isAfter, type ListPosition } from '../db/newest-first.sql.ts';
import type { Plan } from '../environments/plans.ts';
import { notFound } from '../shared/errors.ts';
import { type ConfigKey, type ExportConfig, toConfig } from './repository.ts';
import { toRunError } from './run-error.ts';
import type { RunTrigger } from './run-triggers.ts';
import type { ExportOutcome, RunHistory, UnfinishedRun } from './status.ts';

/** Config with the history that its status needs. */
export interface ConfigWithHistory {
  readonly config: ExportConfig;
  readonly history: RunHistory;
}

/**
 * Returns a config with its history.
 * @throws AppError `not_found`
 */
export async function getConfig(
  db: DatabaseOrTransaction,
  environmentId: string,
  id: string,
): Promise<ConfigWithHistory> {
  const row = await selectConfigs(db)
    .where('config.environment_id', '=', environmentId)
    .where('config.id', '=', id)
    .executeTakeFirst();
  if (row === undefined) throw notFound('export config');
  return withHistory(row);
}

/** Lists configs before `before`, newest first. */
export async function listConfigs(
  db: DatabaseOrTransaction,
  environmentId: string,
  { before, limit }: { before: ListPosition | null; limit: number },
): Promise<ConfigWithHistory[]> {
  const rows = await selectConfigs(db)
    .where('config.environment_id', '=', environmentId)
    .where(isAfter('config', before))
    .orderBy('config.created_at', 'desc')
    .orderBy('config.id', 'desc')
    .limit(limit)
    .execute();
  return rows.map(withHistory);
}

/** Config of any environment, with what its status needs. */
export interface ConfigOfEnvironment extends ConfigWithHistory {
  readonly plan: Plan;
}

/**
 * Lists configs of all environments after `after`, in order of environment and id.
 * @param filter null for configs of any status, turned on or off
 */
export async function listAllConfigs(
  db: DatabaseOrTransaction,
  filter: { status: ExportOutcome | null; enabled: boolean | null },
  page: { after: ConfigKey | null; limit: number },
): Promise<ConfigOfEnvironment[]> {
  const { status, enabled } = filter;
  const { after } = page;
  const rows = await selectConfigs(db)
    .innerJoin('environments as environment', 'environment.id', 'config.environment_id')
    .select('environment.plan')
    .where(({ eb, refTuple, tuple, val }) =>
      after === null
        ? val(true)
        : eb(
            refTuple('config.environment_id', 'config.id'),
            '>',
            tuple(after.environmentId, after.id),
          ),
    )
    .where(({ eb, val }) => (enabled === null ? val(true) : eb('config.enabled', '=', enabled)))
    .where(({ eb, val }) => {
      if (status === null) return val(true);
      return status === 'never ran before'
        ? eb('last.state', 'is', null)
        : eb('last.state', '=', status);
    })
    .orderBy('config.environment_id')
    .orderBy('config.id')
    .limit(page.limit)
    .execute();
  // The check constraint allows no other plans.
  return rows.map(row => ({ ...withHistory(row), plan: row.plan as Plan }));
}

/**
 * Selects configs with their last runs. Three index look-ups per config, independent of the length
 * of the history.
 */
function selectConfigs(db: DatabaseOrTransaction) {
  return db
    .selectFrom('export_configs as config')
    .leftJoinLateral(
      eb =>
        eb
          .selectFrom('export_runs as run')
          .select([
            'run.state',
            'run.finished_at',
            'run.error_code',
            'run.error_message',
            'run.error_hint',
          ])
          .whereRef('run.environment_id', '=', 'config.environment_id')
          .whereRef('run.config_id', '=', 'config.id')
          .where('run.finished_at', 'is not', null)
          .orderBy('run.finished_at', 'desc')
          .limit(1)
          .as('last'),
      join => join.onTrue(),
    )
    .leftJoinLateral(
      eb =>
        eb
          .selectFrom('export_runs as run')
          .select(['run.finished_at', 'run.snapshot_date'])
          .whereRef('run.environment_id', '=', 'config.environment_id')
          .whereRef('run.config_id', '=', 'config.id')
          .where('run.state', '=', 'successful')
          .orderBy('run.finished_at', 'desc')
          .limit(1)
          .as('success'),
      join => join.onTrue(),
    )
    .leftJoinLateral(
      eb =>
        eb
          .selectFrom('export_runs as run')
          .selectAll('run')
          .whereRef('run.environment_id', '=', 'config.environment_id')
          .whereRef('run.config_id', '=', 'config.id')
          .where('run.state', 'in', ['queued', 'running'])
          .limit(1)
          .as('current'),
      join => join.onTrue(),
    )
    .selectAll('config')
    .select([
      'last.state as last_state',
      'last.finished_at as last_finished_at',
      'last.error_code as last_error_code',
      'last.error_message as last_error_message',
      'last.error_hint as last_error_hint',
      'success.finished_at as last_successful_at',
      'success.snapshot_date as last_successful_date',
      'current.id as run_id',
      'current.trigger as run_trigger',
      'current.snapshot_date as run_snapshot_date',
      'current.state as run_state',
      'current.attempts as run_attempts',
      'current.job_id as run_job_id',
      'current.error_code as run_error_code',
      'current.error_message as run_error_message',
      'current.error_hint as run_error_hint',
      sql<Date | null>`(
        select job.start_after from pgboss.job
        where job.name = ${runQueue} and job.id = current.job_id and job.state < 'active'
      )`.as('job_start_after'),
      sql<boolean | null>`(
        select job.start_after <= now() from pgboss.job
        where job.name = ${runQueue} and job.id = current.job_id and job.state < 'active'
      )`.as('job_is_ready'),
    ])
    .where('config.deleted_at', 'is', null);
}

type Row = Awaited<ReturnType<ReturnType<typeof selectConfigs>['executeTakeFirstOrThrow']>>;

function withHistory(row: Row): ConfigWithHistory {
  // Runs of older versions are only in the history of runs.
  const delivered = [row.last_delivered_date, row.last_successful_date].filter(Boolean).sort();
  return {
    config: toConfig(row),
    history: {
      current: currentRunOf(row),
      last:
        row.last_finished_at === null
          ? null
          : {
              state: row.last_state === 'successful' ? 'successful' : 'failed',
              finishedAt: row.last_finished_at,
              error: toRunError({
                error_code: row.last_error_code,
                error_message: row.last_error_message,
                error_hint: row.last_error_hint,
              }),
            },
      lastSuccessfulAt: row.last_successful_at,
      lastDeliveredDate: delivered.at(-1) ?? null,
    },
  };
}

function currentRunOf(row: Row): UnfinishedRun | null {
  if (row.run_id === null || row.run_snapshot_date === null) return null;
  return {
    id: row.run_id,
    // The check constraints allow nothing else.
    trigger: row.run_trigger as RunTrigger,
    snapshotDate: row.run_snapshot_date,
    state: row.run_state as UnfinishedRun['state'],
    attempts: row.run_attempts ?? 0,
    error: toRunError({
      error_code: row.run_error_code,
      error_message: row.run_error_message,
      error_hint: row.run_error_hint,
    }),
    hasJob: row.run_job_id !== null,
    isReady: row.job_is_ready === true,
    startAfter: row.job_start_after,
  };
}
