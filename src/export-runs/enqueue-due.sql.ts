import { sql, type Transaction } from 'kysely';
import type { PgBoss } from 'pg-boss';
import type { Database } from '../db/database.ts';
import { lostRunQueue, runQueue } from '../db/job-queue.ts';
import type { Tables } from '../db/tables.ts';
import { requiredPlan } from '../environments/plans.ts';
import { type ConfigKey, purgeConfigs } from '../export-configs/repository.ts';
import { catchUpDays, newestSlot, schedules, snapshotDateOf } from '../export-configs/schedule.ts';
import { deleteOldEvents } from '../webhooks/insert-events.sql.ts';
import { cancelBackfillsAfterDowngrade, insertBackfillRuns } from './backfills-repository.ts';
import { hasNoUnfinishedRun, isOnly } from './conditions.sql.ts';
import { enqueueRuns } from './enqueue-runs.sql.ts';
import { insertRedeliveries } from './redeliveries-repository.ts';
import { applyFailureEffects } from './run-effects.sql.ts';
import { cancelReasons, snapshotMissingHint } from './run-errors.ts';
import { initialState } from './run-states.ts';
import { transition } from './transition.sql.ts';

/** Numbers of runs that a tick changed. */
export interface Tick {
  /** New runs of due slots, at most one for each config. */
  readonly added: number;
  /** New runs of snapshots that were replaced after their delivery. */
  readonly redelivered: number;
  /** New runs of backfills. */
  readonly backfilled: number;
  /** Runs that were enqueued because their snapshot is present. */
  readonly sent: number;
  /** Runs that failed because their snapshot is missing. */
  readonly failed: number;
  /** Waiting runs that failed because the plan was lowered. */
  readonly switchedOff: number;
}

const noTick: Tick = {
  added: 0,
  redelivered: 0,
  backfilled: 0,
  sent: 0,
  failed: 0,
  switchedOff: 0,
};

/**
 * Creates, enqueues and ends runs according to the clock. Works in one transaction with a fixed
 * number of statements, independent of the number of configs. Any number of processes may call it
 * at once: one works, and the others return at once.
 */
export async function enqueueDue(db: Database, boss: PgBoss, now: Date): Promise<Tick> {
  return await db.transaction().execute(async trx => {
    if (!(await tryLock(trx))) return noTick;
    await sql`set local statement_timeout = 0`.execute(trx);
    // End old runs first, because a config has at most one unfinished run.
    const switchedOff = await failAfterDowngrade(trx, now);
    const failed = await failWithoutSnapshot(trx, boss, now);
    await cancelBackfillsAfterDowngrade(trx, now);
    const inserted = await insertRuns(trx, now);
    await requeueOrphanedRuns(trx);
    const sent = await enqueueRuns(trx, boss);
    await purgeConfigs(trx);
    await deleteOldEvents(trx, now);
    return { ...inserted, sent, failed, switchedOff };
  });
}

/**
 * Starts the next run of a config if it has no unfinished run. Due slots go first, then
 * redeliveries, then dates of a backfill.
 */
export async function enqueueNextRun(
  trx: Transaction<Tables>,
  boss: PgBoss,
  config: ConfigKey,
  now: Date,
): Promise<void> {
  await insertRuns(trx, now, config);
  await enqueueRuns(trx, boss, { environmentId: config.environmentId, configId: config.id });
}

/** Inserts the next run of each config that has no unfinished run. Due slots go first. */
async function insertRuns(trx: Transaction<Tables>, now: Date, only?: ConfigKey) {
  await withdrawBackfillRuns(trx, now, only);
  const added = await insertDueRuns(trx, now, only);
  const redelivered = await insertRedeliveries(trx, now, only);
  const backfilled = await insertBackfillRuns(trx, now, only);
  return { added, redelivered, backfilled };
}

async function tryLock(trx: Transaction<Tables>): Promise<boolean> {
  const { rows } = await sql<{ locked: boolean }>`
    select pg_try_advisory_xact_lock(hashtextextended('warehouse-export enqueue due', 0)) as locked`.execute(
    trx,
  );
  return rows[0]?.locked === true;
}

/**
 * Withdraws runs of backfills that no worker has begun, if a slot of their config is due. Their
 * dates become pending again. The slot would otherwise wait behind the runs of other configs.
 */
async function withdrawBackfillRuns(
  trx: Transaction<Tables>,
  now: Date,
  only?: ConfigKey,
): Promise<void> {
  await sql`
    with withdrawn as (
      delete from export_runs as run
      where run.ctid = any(array(
        select queued.ctid
        from export_runs as queued
        join export_configs as config
          on config.environment_id = queued.environment_id and config.id = queued.config_id
        join environments as environment on environment.id = queued.environment_id
        join ${dueSlots(now)} on due.schedule = config.schedule
        where queued.state = 'queued' and queued.trigger = 'backfill' and queued.attempts = 0
          and ${isOnly('queued', only)} and ${isDue}
          and coalesce(due.slot > ${lastSlot}, true)
        for update of queued skip locked))
      returning run.environment_id, run.backfill_id, run.snapshot_date
    )
    update backfills as backfill
    set pending_dates = array_prepend(withdrawn.snapshot_date, backfill.pending_dates)
    from withdrawn
    where backfill.environment_id = withdrawn.environment_id
      and backfill.id = withdrawn.backfill_id`.execute(trx);
}

/**
 * Inserts runs of due slots. A slot is skipped unless it is newer than all earlier slots of the
 * config, also after the clock was set back. Configs that catch up on all slots get the oldest
 * missed one.
 *
 * The conditions are subqueries with a limit, for the reason at `hasNoUnfinishedRun`.
 *
 * Configs are locked like the foreign key would lock them. Configs that are being deleted are
 * skipped, because they would fail the whole tick.
 */
async function insertDueRuns(
  trx: Transaction<Tables>,
  now: Date,
  only?: ConfigKey,
): Promise<number> {
  const result = await sql`
    insert into export_runs (
      environment_id, config_id, id, trigger, slot, snapshot_date, state, created_at)
    select config.environment_id, config.id, gen_random_uuid()::text, 'schedule', next.slot,
      ((next.slot at time zone 'UTC') - interval '1 day')::date, ${initialState}, ${now}
    ${fromDueConfigs(now, nextSlotOfConfig)}
      and ${isOnly('config', only, 'id')}
      and coalesce(next.slot > last.slot, true)
      and ${hasNoUnfinishedRun('config', 'id')}
    for key share of config skip locked
    on conflict do nothing`.execute(trx);
  return Number(result.numAffectedRows ?? 0);
}

/** SQL of the newest slot of a config that has a run. */
const lastSlot = sql`(
  select run.slot from export_runs as run
  where run.environment_id = config.environment_id and run.config_id = config.id
    and run.slot is not null
  order by run.slot desc
  limit 1)`;

/** SQL that joins `last` and `next`: the last slot with a run, and the slot to run next. */
const nextSlotOfConfig = sql`
  cross join lateral (select ${lastSlot} as slot offset 0) as last
  cross join lateral (
    select case when config.catch_up = 'newest' then due.slot else least(
      due.slot,
      date_trunc(
        case config.schedule when 'weekly' then 'week' else 'day' end,
        greatest(
          last.slot,
          config.active_since,
          due.slot - make_interval(hours => ${24 * catchUpDays}::int)),
        'UTC')
        + make_interval(hours => case config.schedule when 'weekly' then 168 else 24 end)
    ) end as slot
    offset 0) as next`;

/**
 * Fails runs whose snapshot is missing although the next slot is due. A queued run without a job
 * has waited for its snapshot. Only scheduled runs wait: the snapshots of others existed and were
 * deleted.
 * Configs are locked before runs, as everywhere. Configs that are being changed are left to the
 * next tick.
 */
async function failWithoutSnapshot(
  trx: Transaction<Tables>,
  boss: PgBoss,
  now: Date,
): Promise<number> {
  const late = sql<boolean>`run.ctid = any(array(
      select late.ctid
      from export_runs as late
      join export_configs as config on config.environment_id = late.environment_id and config.id = late.config_id
      join ${dueSlots(now)} on due.schedule = config.schedule
      where late.state = 'queued' and late.job_id is null
        and (late.slot < due.slot or late.trigger <> 'schedule')
        and not exists (
          select from snapshots
          where snapshots.environment_id = late.environment_id and snapshots.snapshot_date = late.snapshot_date)
      for no key update of config, late skip locked))`;
  const rows = await transition(trx, 'fail')
    .set({
      finished_at: now,
      error_code: 'snapshot_missing',
      error_message: sql`format(
        case run.trigger
          when 'schedule'
            then 'The snapshot of %s had not been ingested when the next slot was due.'
          else 'There is no snapshot of %s any more.'
        end, run.snapshot_date)`,
      error_hint: snapshotMissingHint,
    })
    .where(late)
    .returning(['run.environment_id as environmentId', 'run.id as runId'])
    .execute();
  await applyFailureEffects(trx, boss, rows, now);
  return rows.length;
}

/**
 * Fails waiting runs whose plan no longer includes automatic exports. No worker checks waiting
 * runs. Runs that are being changed are left to the next tick.
 */
async function failAfterDowngrade(trx: Transaction<Tables>, now: Date): Promise<number> {
  const { code, message } = cancelReasons.plan_upgrade_required;
  const isDowngraded = sql<boolean>`run.ctid = any(array(
      select waiting.ctid
      from export_runs as waiting
      join environments as environment on environment.id = waiting.environment_id
      where waiting.state = 'queued' and waiting.job_id is null
        and environment.plan <> ${requiredPlan('automatic_export')}
      for no key update of waiting skip locked))`;
  const result = await transition(trx, 'fail')
    .set({ finished_at: now, error_code: code, error_message: message, error_hint: null })
    .where(isDowngraded)
    .executeTakeFirst();
  return Number(result.numUpdatedRows);
}

/**
 * Resets runs whose job no longer exists, for example after the queue was emptied. Such a run would
 * block all later slots of its config and the deletion of the config. An unfinished run then gets a
 * new job. Runs with a job in `run-export-lost` are skipped, because they end now. Runs that are
 * being changed are left to the next tick.
 *
 * `not in` reads the jobs once, into a hash table. With `not exists` and statistics of an empty
 * queue, Postgres compared each run with each job. That took 30 s with 10,000 runs.
 */
async function requeueOrphanedRuns(trx: Transaction<Tables>): Promise<void> {
  const isOrphaned = sql<boolean>`run.ctid = any(array(
    select orphan.ctid
    from export_runs as orphan
    where orphan.job_id is not null
      and orphan.job_id not in (
        select job.id from pgboss.job
        where job.name = ${runQueue} and job.state < 'completed')
      and not exists (
        select from pgboss.job
        where job.name = ${lostRunQueue} and job.data ->> 'runId' = orphan.id
          and job.state < 'completed')
    for no key update of orphan skip locked))`;
  await transition(trx, 'requeue').set({ job_id: null }).where(isOrphaned).execute();
  // Ended runs that still had to clean up the bucket.
  await trx.updateTable('export_runs as run').set({ job_id: null }).where(isOrphaned).execute();
}

/** SQL condition that a slot `due` concerns `config` in `environment`. */
const isDue = sql`config.enabled
  and config.deleted_at is null
  and config.active_since < due.slot
  and environment.plan = ${requiredPlan('automatic_export')}`;

/**
 * Returns SQL that joins the tables `config`, `environment` and `due`: every config with a due
 * slot, and its newest slot.
 * @param more SQL of further joins
 */
export function fromDueConfigs(now: Date, more = sql``) {
  return sql`
    from ${dueSlots(now)}
    join export_configs as config on config.schedule = due.schedule
    join environments as environment on environment.id = config.environment_id
    ${more}
    where ${isDue}`;
}

/**
 * Returns SQL of a table `due` with the newest slot of each schedule: schedule, slot,
 * snapshot_date.
 */
function dueSlots(now: Date) {
  const rows = schedules.map(schedule => {
    const slot = newestSlot(schedule, now);
    return sql`(${schedule}::text, ${slot}::timestamptz, ${snapshotDateOf(slot)}::date)`;
  });
  return sql`(values ${sql.join(rows)}) as due (schedule, slot, snapshot_date)`;
}
