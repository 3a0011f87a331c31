import { randomUUID } from 'node:crypto';
import { sql, type Transaction } from 'kysely';
import { type Actor, recordChange } from '../audit/audit-log-repository.ts';
import type { DatabaseOrTransaction } from '../db/database.ts';
import { isAfter, type ListPosition } from '../db/newest-first.sql.ts';
import type { Tables } from '../db/tables.ts';
import { requiredPlan } from '../environments/plans.ts';
import type { ConfigKey } from '../export-configs/repository.ts';
import { AppError, notFound } from '../shared/errors.ts';
import { hasNoUnfinishedRun, isOnly } from './conditions.sql.ts';
import { initialState } from './run-states.ts';

/**
 * Stores backfills. A backfill holds the dates that have no run yet. Its runs are inserted one
 * after the other, and its counts are those of its runs.
 */

/** Export of all snapshots of a range of dates. Instants are ISO 8601 UTC. */
export interface Backfill {
  readonly id: string;
  readonly configId: string;
  readonly from: string;
  readonly to: string;
  readonly state: 'running' | 'finished' | 'cancelled';
  /** Number of snapshots in the range when the backfill was started. */
  readonly total: number;
  readonly successful: number;
  readonly failed: number;
  readonly createdAt: string;
  readonly finishedAt: string | null;
}

interface BackfillKey {
  readonly environmentId: string;
  readonly configId: string;
  readonly backfillId: string;
}

/** `Retry-After` in seconds while another backfill of the config is running. */
const retryAfterSeconds = '60';

/**
 * Inserts a backfill of all snapshots from `from` to `to`, both included. The caller has locked the
 * config.
 * @returns the id
 * @throws AppError `not_found`, `conflict` if the config has a running backfill
 */
export async function insertBackfill(
  trx: Transaction<Tables>,
  actor: Actor,
  wanted: { environmentId: string; configId: string; from: string; to: string; now: Date },
): Promise<string> {
  const { environmentId, configId, from, to, now } = wanted;
  const config = await trx
    .selectFrom('export_configs')
    .select('id')
    .where('environment_id', '=', environmentId)
    .where('id', '=', configId)
    .where('deleted_at', 'is', null)
    .executeTakeFirst();
  if (config === undefined) throw notFound('export config');
  const running = await trx
    .selectFrom('backfills')
    .select('id')
    .where(isRunning({ environmentId, id: configId }))
    .executeTakeFirst();
  if (running !== undefined) {
    const detail = `The backfill ${running.id} of this config is running. Cancel it or wait.`;
    throw new AppError('conflict', detail, { headers: { 'retry-after': retryAfterSeconds } });
  }
  const id = randomUUID();
  await sql`
    insert into backfills (
      environment_id, config_id, id, from_date, to_date, total, pending_dates, created_at)
    select ${environmentId}, ${configId}, ${id}, ${from}::date, ${to}::date, count(*),
      coalesce(array_agg(snapshot_date order by snapshot_date), '{}'), ${now}
    from snapshots
    where environment_id = ${environmentId}
      and snapshot_date between ${from}::date and ${to}::date`.execute(trx);
  await recordChange(trx, actor, {
    environmentId,
    action: 'backfill.started',
    targetId: id,
    details: { configId, from, to },
  });
  return id;
}

/**
 * Returns a backfill.
 * @throws AppError `not_found`
 */
export async function getBackfill(
  db: DatabaseOrTransaction,
  { environmentId, configId, backfillId }: BackfillKey,
): Promise<Backfill> {
  const row = await selectBackfills(db, environmentId)
    .where('backfill.config_id', '=', configId)
    .where('backfill.id', '=', backfillId)
    .executeTakeFirst();
  if (row === undefined) throw notFound('backfill');
  return toBackfill(row);
}

/** Lists backfills of a config before `before`, newest first. */
export async function listBackfills(
  db: DatabaseOrTransaction,
  environmentId: string,
  configId: string,
  { before, limit }: { before: ListPosition | null; limit: number },
): Promise<Backfill[]> {
  const rows = await selectBackfills(db, environmentId)
    .where('backfill.config_id', '=', configId)
    .where(isAfter('backfill', before))
    .orderBy('backfill.created_at', 'desc')
    .orderBy('backfill.id', 'desc')
    .limit(limit)
    .execute();
  return rows.map(toBackfill);
}

/**
 * Cancels a running backfill. Its unfinished run continues. The caller has locked the config.
 * @throws AppError `not_found`; `conflict` if it has ended
 */
export async function cancelBackfill(
  trx: Transaction<Tables>,
  actor: Actor,
  key: BackfillKey,
  now: Date,
): Promise<void> {
  const { environmentId, configId, backfillId } = key;
  const { state } = await getBackfill(trx, key);
  if (state !== 'running') {
    throw new AppError('conflict', `The backfill ${backfillId} has already ended.`);
  }
  await trx
    .updateTable('backfills')
    .set({ cancelled_at: now })
    .where('environment_id', '=', environmentId)
    .where('id', '=', backfillId)
    .execute();
  await recordChange(trx, actor, {
    environmentId,
    action: 'backfill.cancelled',
    targetId: backfillId,
    details: { configId },
  });
}

/** Cancels the running backfill of a config. Call this before its unfinished run is cancelled. */
export async function cancelBackfillsOf(
  db: DatabaseOrTransaction,
  config: ConfigKey,
  now: Date,
): Promise<void> {
  await db.updateTable('backfills').set({ cancelled_at: now }).where(isRunning(config)).execute();
}

/**
 * Returns the condition that a row of `backfills` is the running one of the config. Reads two
 * indexes, because a config may have thousands of ended backfills.
 */
function isRunning({ environmentId, id }: ConfigKey) {
  return sql<boolean>`cancelled_at is null and (environment_id, id) in (
    select pending.environment_id, pending.id from backfills as pending
    where pending.environment_id = ${environmentId} and pending.config_id = ${id}
      and pending.cancelled_at is null and pending.pending_dates <> '{}'
    union all
    select run.environment_id, run.backfill_id from export_runs as run
    where run.environment_id = ${environmentId} and run.config_id = ${id}
      and run.state in ('queued', 'running') and run.backfill_id is not null)`;
}

/** Cancels the backfills of environments whose plan no longer includes automatic exports. */
export async function cancelBackfillsAfterDowngrade(
  trx: Transaction<Tables>,
  now: Date,
): Promise<void> {
  await sql`
    update backfills set cancelled_at = ${now}
    where ctid = any(array(
      select backfill.ctid
      from backfills as backfill
      join environments as environment on environment.id = backfill.environment_id
      where backfill.cancelled_at is null and backfill.pending_dates <> '{}'
        and environment.plan <> ${requiredPlan('automatic_export')}
      for no key update of backfill skip locked))`.execute(trx);
}

/**
 * Inserts a run for the first pending date of each backfill whose config has no unfinished run.
 * Skips configs that are being deleted: the foreign key would wait for the deletion, which may wait
 * for a row of this transaction.
 * @param only limits this to one config
 */
export async function insertBackfillRuns(
  trx: Transaction<Tables>,
  now: Date,
  only?: ConfigKey,
): Promise<number> {
  const result = await sql`
    with due as (
      select backfill.environment_id, backfill.config_id, backfill.id,
        backfill.pending_dates[1] as snapshot_date
      from backfills as backfill
      join environments as environment on environment.id = backfill.environment_id
      join export_configs as config
        on config.environment_id = backfill.environment_id and config.id = backfill.config_id
      where backfill.cancelled_at is null and backfill.pending_dates <> '{}'
        and ${isOnly('backfill', only)}
        and config.deleted_at is null
        and environment.plan = ${requiredPlan('automatic_export')}
        and ${hasNoUnfinishedRun('backfill')}
      for no key update of backfill skip locked
      for key share of config skip locked
    ), inserted as (
      insert into export_runs (
        environment_id, config_id, id, trigger, backfill_id, snapshot_date, state, created_at)
      select environment_id, config_id, gen_random_uuid()::text, 'backfill', id, snapshot_date,
        ${initialState}, ${now}
      from due
      on conflict do nothing
      returning environment_id, backfill_id
    )
    update backfills as backfill
    set pending_dates = backfill.pending_dates[2:]
    from inserted
    where backfill.environment_id = inserted.environment_id
      and backfill.id = inserted.backfill_id`.execute(trx);
  return Number(result.numAffectedRows ?? 0);
}

function selectBackfills(db: DatabaseOrTransaction, environmentId: string) {
  return db
    .selectFrom('backfills as backfill')
    .innerJoin('export_configs as config', join =>
      join
        .onRef('config.environment_id', '=', 'backfill.environment_id')
        .onRef('config.id', '=', 'backfill.config_id')
        .on('config.deleted_at', 'is', null),
    )
    .innerJoinLateral(
      eb =>
        eb
          .selectFrom('export_runs as run')
          .select([
            sql<number>`count(*) filter (where run.state = 'successful')::int`.as('successful'),
            sql<number>`count(*) filter (where run.state = 'failed')::int`.as('failed'),
            sql<number>`count(*) filter (where run.finished_at is null)::int`.as('unfinished'),
            sql<Date | null>`max(run.finished_at)`.as('last_finished_at'),
          ])
          .whereRef('run.environment_id', '=', 'backfill.environment_id')
          .whereRef('run.backfill_id', '=', 'backfill.id')
          .as('runs'),
      join => join.onTrue(),
    )
    .select([
      'backfill.id',
      'backfill.config_id',
      'backfill.from_date',
      'backfill.to_date',
      'backfill.total',
      'backfill.created_at',
      'backfill.cancelled_at',
      'runs.successful',
      'runs.failed',
      'runs.unfinished',
      'runs.last_finished_at',
      sql<number>`cardinality(backfill.pending_dates)`.as('pending'),
    ])
    .where('backfill.environment_id', '=', environmentId);
}

type Row = Awaited<ReturnType<ReturnType<typeof selectBackfills>['executeTakeFirstOrThrow']>>;

function toBackfill(row: Row): Backfill {
  const isFinished = row.pending === 0 && row.unfinished === 0;
  const finishedAt = isFinished ? (row.last_finished_at ?? row.created_at) : null;
  return {
    id: row.id,
    configId: row.config_id,
    from: row.from_date,
    to: row.to_date,
    state: row.cancelled_at === null ? (isFinished ? 'finished' : 'running') : 'cancelled',
    total: row.total,
    successful: row.successful,
    failed: row.failed,
    createdAt: row.created_at.toISOString(),
    finishedAt: (row.cancelled_at ?? finishedAt)?.toISOString() ?? null,
  };
}
