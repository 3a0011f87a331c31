import { sql, type Transaction } from 'kysely';
import type { PoolClient } from 'pg';
import type { DatabaseOrTransaction } from '../db/database.ts';
import type { Tables } from '../db/tables.ts';
import { requiredPlan } from '../environments/plans.ts';
import type { ConfigKey } from '../export-configs/repository.ts';
import { hasNoUnfinishedRun, isOnly } from './conditions.sql.ts';
import { initialState } from './run-states.ts';

/**
 * Delivers snapshots again that were replaced after their slot was delivered. A new version and the
 * end of a run each insert a row into `redelivery_checks`. A tick then looks for replaced snapshots
 * of these configs. A version that failed as a redelivery is not tried again.
 */

/** Updates, so that this waits for a check in progress and loses no request. */
const onConflict =
  'on conflict (environment_id, config_id) do update set requested_at = excluded.requested_at';

/** Configs whose check one transaction makes. */
const checksPerTick = 1_000;

/** Requests a check of all configs of an environment, because it has a new snapshot version. */
export async function checkRedeliveriesOf(
  client: PoolClient,
  environmentId: string,
): Promise<void> {
  await client.query(
    `insert into redelivery_checks (environment_id, config_id)
     select environment_id, id from export_configs
     where environment_id = $1 and redeliver and enabled and deleted_at is null
     order by id
     for key share skip locked
     ${onConflict}`,
    [environmentId],
  );
}

/** Requests a check of a config, because the snapshot may have been replaced during its run. */
export async function checkRedeliveryOf(
  trx: DatabaseOrTransaction,
  config: ConfigKey,
): Promise<void> {
  await sql`
    insert into redelivery_checks (environment_id, config_id)
    select environment_id, id from export_configs
    where environment_id = ${config.environmentId} and id = ${config.id}
      and redeliver and deleted_at is null
    ${sql.raw(onConflict)}`.execute(trx);
}

/**
 * Inserts a run for the oldest replaced snapshot of each config that has a check and no unfinished
 * run. Removes the checks of configs that have none.
 *
 * The checks are locked by a statement of their own. The next statement then sees every version
 * that was registered before a check was requested. Skips configs that are being deleted, for the
 * reason at `insertBackfillRuns`.
 * @param only limits this to one config
 */
export async function insertRedeliveries(
  trx: Transaction<Tables>,
  now: Date,
  only?: ConfigKey,
): Promise<number> {
  const { rows } = await sql<{ environmentId: string; id: string }>`
    select due.environment_id as "environmentId", due.config_id as id
    from redelivery_checks as due
    join environments as environment on environment.id = due.environment_id
    join export_configs as config
      on config.environment_id = due.environment_id and config.id = due.config_id
    where ${isOnly('due', only)}
      and config.redeliver and config.enabled and config.deleted_at is null
      and environment.plan = ${requiredPlan('automatic_export')}
      and ${hasNoUnfinishedRun('due')}
    order by due.requested_at
    limit ${checksPerTick}
    for update of due skip locked
    for key share of config skip locked`.execute(trx);
  if (rows.length === 0) return 0;
  const configs = sql`unnest(
    ${rows.map(row => row.environmentId)}::text[], ${rows.map(row => row.id)}::text[]
  ) as config (environment_id, id)`;
  const inserted = await sql`
    insert into export_runs (
      environment_id, config_id, id, trigger, snapshot_date, snapshot_version, state, created_at)
    select config.environment_id, config.id, gen_random_uuid()::text, 'redelivery',
      replaced.snapshot_date, replaced.version, ${initialState}, ${now}
    from ${configs}
    cross join lateral (
      select snapshot.snapshot_date, snapshot.version
      from (
        select run.snapshot_date, max(run.finished_at) as finished_at,
          (array_agg(run.snapshot_version order by run.finished_at desc))[1] as version
        from export_runs as run
        where run.environment_id = config.environment_id and run.config_id = config.id
          and run.state = 'successful'
        group by run.snapshot_date
        having bool_or(run.trigger = 'schedule')
      ) as delivered
      join snapshots as snapshot
        on snapshot.environment_id = config.environment_id
          and snapshot.snapshot_date = delivered.snapshot_date
      -- Older versions of the service did not record what they delivered.
      where coalesce(
          delivered.version <> snapshot.version,
          snapshot.completed_at > delivered.finished_at)
        and not exists (
          select from export_runs as tried
          where tried.environment_id = config.environment_id and tried.config_id = config.id
            and tried.snapshot_date = snapshot.snapshot_date and tried.trigger = 'redelivery'
            and tried.state = 'failed' and tried.snapshot_version = snapshot.version)
      order by snapshot.snapshot_date
      limit 1
    ) as replaced
    on conflict do nothing`.execute(trx);
  await sql`
    delete from redelivery_checks as due
    using ${configs}
    where due.environment_id = config.environment_id and due.config_id = config.id
      and ${hasNoUnfinishedRun('config', 'id')}`.execute(trx);
  return Number(inserted.numAffectedRows ?? 0);
}
