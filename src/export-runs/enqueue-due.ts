import { sql, type Transaction } from 'kysely';
import type { PgBoss } from 'pg-boss';
import type { Database } from '../db/database.ts';
import { lostRunQueue, runQueue } from '../db/job-queue.ts';
import type { Tables } from '../db/tables.ts';
import { requiredPlan } from '../environments/plans.ts';
import { purgeConfigs } from '../export-configs/repository.ts';
import { newestSlot, schedules, snapshotDateOf } from '../export-configs/schedule.ts';
import { deleteOldEvents } from '../webhooks/insert-events.ts';
import { enqueueRuns } from './enqueue-runs.ts';
import { applyFailureEffects } from './failure-streaks.ts';
import { cancelReasons } from './run-errors.ts';
import { initialState, transition } from './run-states.ts';

/** Numbers of runs that a tick changed. */
export interface Tick {
  /** New runs of due slots. Only the newest slot of a config counts. */
  readonly added: number;
  /** Runs that were enqueued because their snapshot is present. */
  readonly sent: number;
  /** Runs that failed because their snapshot is missing. */
  readonly failed: number;
  /** Waiting runs that failed because the plan was lowered. */
  readonly switchedOff: number;
}

/**
 * Creates, enqueues and ends runs according to the clock. Works in one transaction with a fixed
 * number of statements, independent of the number of configs. Any number of processes may call it
 * at once: one works, and the others return at once.
 */
export async function enqueueDue(db: Database, boss: PgBoss, now: Date): Promise<Tick> {
  return await db.transaction().execute(async trx => {
    if (!(await tryLock(trx))) return { added: 0, sent: 0, failed: 0, switchedOff: 0 };
    await sql`set local statement_timeout = 0`.execute(trx);
    // End old runs first, because a config has at most one unfinished run.
    const switchedOff = await failAfterDowngrade(trx, now);
    const failed = await failWithoutSnapshot(trx, boss, now);
    const added = await insertDueRuns(trx, now);
    await requeueOrphanedRuns(trx);
    const sent = await enqueueRuns(trx, boss);
    await purgeConfigs(trx);
    await deleteOldEvents(trx, now);
    return { added, sent, failed, switchedOff };
  });
}

async function tryLock(trx: Transaction<Tables>): Promise<boolean> {
  const { rows } = await sql<{ locked: boolean }>`
    select pg_try_advisory_xact_lock(hashtextextended('warehouse-export enqueue due', 0)) as locked`.execute(
    trx,
  );
  return rows[0]?.locked === true;
}

/**
 * Inserts runs of due slots. A slot is skipped unless it is newer than all earlier slots of the
 * config, also after the clock was set back.
 *
 * The conditions are subqueries with a limit, which Postgres executes as one index look-up per
 * config. Joins would be planned with statistics that are outdated at midnight.
 *
 * Configs are locked like the foreign key would lock them. Configs that are being deleted are
 * skipped, because they would fail the whole tick.
 */
async function insertDueRuns(trx: Transaction<Tables>, now: Date): Promise<number> {
  const result = await sql`
    insert into export_runs (environment_id, config_id, id, trigger, slot, snapshot_date, state, created_at)
    select config.environment_id, config.id, gen_random_uuid()::text, 'schedule', due.slot, due.snapshot_date, ${initialState}, ${now}
    ${fromDueConfigs(now)}
      and coalesce(due.slot > (
        select run.slot from export_runs as run
        where run.environment_id = config.environment_id and run.config_id = config.id and run.slot is not null
        order by run.slot desc
        limit 1), true)
      and (
        select true from export_runs as run
        where run.environment_id = config.environment_id and run.config_id = config.id
          and run.state in ('queued', 'running')
        limit 1) is null
    for key share of config skip locked
    on conflict do nothing`.execute(trx);
  return Number(result.numAffectedRows ?? 0);
}

/**
 * Fails runs whose snapshot is missing although the next slot is due. A queued run without a job
 * has waited for its snapshot. Manual runs never wait: their snapshot existed and was deleted.
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
        and (late.slot < due.slot or late.trigger = 'manual')
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
          when 'manual' then 'There is no snapshot of %s any more.'
          else 'The snapshot of %s had not been ingested when the next slot was due.'
        end, run.snapshot_date)`,
    })
    .where(late)
    .returning(['run.environment_id as environmentId', 'run.id as runId'])
    .execute();
  await applyFailureEffects(trx, boss, rows, now);
  return rows.length;
}

/**
 * Fails waiting runs whose plan no longer includes automatic exports. No worker checks waiting
 * runs.
 */
async function failAfterDowngrade(trx: Transaction<Tables>, now: Date): Promise<number> {
  const { code, message } = cancelReasons.plan_upgrade_required;
  const result = await transition(trx, 'fail')
    .from('environments as environment')
    .set({ finished_at: now, error_code: code, error_message: message })
    .where('run.state', '=', 'queued')
    .where('run.job_id', 'is', null)
    .whereRef('environment.id', '=', 'run.environment_id')
    .where('environment.plan', '<>', requiredPlan('automatic_export'))
    .executeTakeFirst();
  return Number(result.numUpdatedRows);
}

/**
 * Resets runs whose job no longer exists, for example after the queue was emptied. Such a run would
 * block all later slots of its config and the deletion of the config. An unfinished run then gets a
 * new job. Runs with a job in `run-export-lost` are skipped, because they end now.
 */
async function requeueOrphanedRuns(trx: Transaction<Tables>): Promise<void> {
  const isOrphaned = sql<boolean>`run.ctid = any(array(
    select orphan.ctid
    from export_runs as orphan
    where orphan.job_id is not null
      and not exists (
        select from pgboss.job
        where job.name = ${runQueue} and job.id = orphan.job_id and job.state < 'completed')
      and not exists (
        select from pgboss.job
        where job.name = ${lostRunQueue} and job.data ->> 'runId' = orphan.id
          and job.state < 'completed')))`;
  await transition(trx, 'requeue').set({ job_id: null }).where(isOrphaned).execute();
  // Ended runs that still had to clean up the bucket.
  await trx.updateTable('export_runs as run').set({ job_id: null }).where(isOrphaned).execute();
}

/**
 * Returns SQL that joins the tables `config`, `environment` and `due`: every config with a due
 * slot, and its newest slot.
 */
export function fromDueConfigs(now: Date) {
  return sql`
    from ${dueSlots(now)}
    join export_configs as config on config.schedule = due.schedule
    join environments as environment on environment.id = config.environment_id
    where config.enabled
      and config.deleted_at is null
      and config.active_since < due.slot
      and environment.plan = ${requiredPlan('automatic_export')}`;
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
