import { sql, type Transaction } from 'kysely';
import type { PgBoss } from 'pg-boss';
import type { Database } from '../db/database.ts';
import { lostRunQueue, runQueue } from '../db/job-queue.ts';
import type { Tables } from '../db/tables.ts';
import { requiredPlan } from '../environments/plans.ts';
import { purgeConfigs } from '../export-configs/repository.ts';
import { deleteOldEvents } from '../webhooks/insert-events.ts';
import { enqueueRuns } from './enqueue-runs.ts';
import { type EndedRun, noteFailures } from './failure-streaks.ts';
import { stopReasons } from './run-errors.ts';
import { newestSlot, schedules, snapshotDateOf } from './schedule.ts';

/** How many runs a tick moved. */
export interface Tick {
  /** Became due, newest slot only. */
  readonly added: number;
  /** Whose snapshot is there: handed to the workers. */
  readonly sent: number;
  /** Waited in vain for their snapshot. */
  readonly failed: number;
  /** The plan was lowered while they waited. */
  readonly switchedOff: number;
}

/**
 * Brings the runs up to date with the clock, in one transaction and a handful of set-wise statements however many
 * configs there are. Any number of processes may call it at any time: one works, the others find nothing to do.
 */
export async function enqueueDue(db: Database, boss: PgBoss, now: Date): Promise<Tick> {
  return await db.transaction().execute(async trx => {
    if (!(await tryLock(trx))) return { added: 0, sent: 0, failed: 0, switchedOff: 0 };
    await sql`set local statement_timeout = 0`.execute(trx);
    // Those that end make room for the next slot's: a config has one unfinished run at most.
    const switchedOff = await failSwitchedOff(trx, now);
    const failed = await failWithoutSnapshot(trx, boss, now);
    const added = await insertDue(trx, now);
    await takeBackWithoutJob(trx);
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
 * A slot that is not newer than one that was run already is left alone, also when the clock went back. Asked by
 * subqueries with a limit, which Postgres carries out as a step down an index for each config: as joins they are planned
 * by what it knows of the table, which at midnight is what it was before.
 * Configs are locked as the foreign key would lock them a moment later: one that is being removed is passed over, where
 * it would fail the whole tick.
 */
async function insertDue(trx: Transaction<Tables>, now: Date): Promise<number> {
  const result = await sql`
    insert into export_runs (environment_id, config_id, id, trigger, slot, snapshot_date, state, created_at)
    select config.environment_id, config.id, gen_random_uuid()::text, 'schedule', due.slot, due.snapshot_date, 'queued', ${now}
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
 * The next slot has come and the snapshot has not. Without a job means that the run has been waiting for it. A run by
 * hand never waits: its snapshot was there and is gone. Configs are locked before their runs, as everywhere; one that
 * somebody is changing now is left to the next tick.
 */
async function failWithoutSnapshot(
  trx: Transaction<Tables>,
  boss: PgBoss,
  now: Date,
): Promise<number> {
  const { rows } = await sql<EndedRun>`
    update export_runs as run
    set state = 'failed', finished_at = ${now}, error_code = 'snapshot_missing',
      error_message = format(
        case run.trigger
          when 'manual' then 'There is no snapshot of %s any more.'
          else 'The snapshot of %s had not been loaded when the next slot came.'
        end, run.snapshot_date)
    where run.ctid = any(array(
      select late.ctid
      from export_runs as late
      join export_configs as config on config.environment_id = late.environment_id and config.id = late.config_id
      join ${dueSlots(now)} on due.schedule = config.schedule
      where late.state = 'queued' and late.job_id is null
        and (late.slot < due.slot or late.trigger = 'manual')
        and not exists (
          select from snapshots
          where snapshots.environment_id = late.environment_id and snapshots.snapshot_date = late.snapshot_date)
      for no key update of config, late skip locked))
    returning run.environment_id as "environmentId", run.id as "runId"`.execute(trx);
  await noteFailures(trx, boss, rows, now);
  return rows.length;
}

/** Nobody else looks at runs that wait. */
async function failSwitchedOff(trx: Transaction<Tables>, now: Date): Promise<number> {
  const { code, message } = stopReasons.plan_upgrade_required;
  const result = await sql`
    update export_runs as run
    set state = 'failed', finished_at = ${now}, error_code = ${code}, error_message = ${message}
    from environments as environment
    where run.state = 'queued' and run.job_id is null
      and environment.id = run.environment_id and environment.plan <> ${requiredPlan('automatic_export')}`.execute(
    trx,
  );
  return Number(result.numAffectedRows ?? 0);
}

/**
 * A run whose job is gone, say because somebody emptied the queue, would hold back every later slot of its config, or
 * its config's removal. It gets a new one unless it is over. Jobs of `run-export-lost` are about runs that end now.
 */
async function takeBackWithoutJob(trx: Transaction<Tables>): Promise<void> {
  await sql`
    update export_runs as run
    set state = case when run.state = 'running' then 'queued' else run.state end, job_id = null
    where run.job_id is not null
      and not exists (
        select from pgboss.job
        where job.name = ${runQueue} and job.id = run.job_id and job.state < 'completed')
      and not exists (
        select from pgboss.job
        where job.name = ${lostRunQueue} and job.data ->> 'runId' = run.id and job.state < 'completed')`.execute(
    trx,
  );
}

/** Of the tables `config`, `environment` and `due`: every config that is to have run by now, and its newest slot. */
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

/** The newest slot of each schedule as a table `due`: schedule, slot, snapshot_date. */
function dueSlots(now: Date) {
  const rows = schedules.map(schedule => {
    const slot = newestSlot(schedule, now);
    return sql`(${schedule}::text, ${slot}::timestamptz, ${snapshotDateOf(slot)}::date)`;
  });
  return sql`(values ${sql.join(rows)}) as due (schedule, slot, snapshot_date)`;
}
