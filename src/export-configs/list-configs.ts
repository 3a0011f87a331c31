import type { DatabaseOrTransaction } from '../db/database.ts';
import type { Plan } from '../environments/plans.ts';
import { notFound } from '../shared/errors.ts';
import { type ConfigKey, type ExportConfig, toConfig } from './repository.ts';
import type { ExportOutcome, RunHistory } from './status.ts';

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
  page: { before: { createdAt: Date; id: string } | null; limit: number },
): Promise<ConfigWithHistory[]> {
  const { before } = page;
  const rows = await selectConfigs(db)
    .where('config.environment_id', '=', environmentId)
    .where(({ eb, refTuple, tuple, val }) =>
      before === null
        ? val(true)
        : eb(refTuple('config.created_at', 'config.id'), '<', tuple(before.createdAt, before.id)),
    )
    .orderBy('config.created_at', 'desc')
    .orderBy('config.id', 'desc')
    .limit(page.limit)
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
 * Selects configs with their last runs. Two index look-ups per config, independent of the length of
 * the history.
 */
function selectConfigs(db: DatabaseOrTransaction) {
  return db
    .selectFrom('export_configs as config')
    .leftJoinLateral(
      eb =>
        eb
          .selectFrom('export_runs as run')
          .select(['run.state', 'run.finished_at', 'run.error_code', 'run.error_message'])
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
          .select('run.finished_at')
          .whereRef('run.environment_id', '=', 'config.environment_id')
          .whereRef('run.config_id', '=', 'config.id')
          .where('run.state', '=', 'successful')
          .orderBy('run.finished_at', 'desc')
          .limit(1)
          .as('success'),
      join => join.onTrue(),
    )
    .selectAll('config')
    .select(({ exists, selectFrom }) => [
      'last.state as last_state',
      'last.finished_at as last_finished_at',
      'last.error_code as last_error_code',
      'last.error_message as last_error_message',
      'success.finished_at as last_successful_at',
      exists(
        selectFrom('export_runs as run')
          .select('run.id')
          .whereRef('run.environment_id', '=', 'config.environment_id')
          .whereRef('run.config_id', '=', 'config.id')
          .where('run.state', '=', 'running'),
      ).as('is_running'),
    ])
    .where('config.deleted_at', 'is', null);
}

type Row = Awaited<ReturnType<ReturnType<typeof selectConfigs>['executeTakeFirstOrThrow']>>;

function withHistory(row: Row): ConfigWithHistory {
  return {
    config: toConfig(row),
    history: {
      running: Boolean(row.is_running),
      last:
        row.last_finished_at === null
          ? null
          : {
              state: row.last_state === 'successful' ? 'successful' : 'failed',
              finishedAt: row.last_finished_at,
              error:
                row.last_error_code === null || row.last_error_message === null
                  ? null
                  : { code: row.last_error_code, message: row.last_error_message },
            },
      lastSuccessfulAt: row.last_successful_at,
    },
  };
}
