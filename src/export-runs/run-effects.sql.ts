import { sql, type Transaction } from 'kysely';
import type { PgBoss } from 'pg-boss';
import { type Change, recordChanges, systemActor } from '../audit/audit-log-repository.ts';
import type { DatabaseOrTransaction } from '../db/database.ts';
import type { Tables } from '../db/tables.ts';
import { configurationErrors } from '../destinations/s3/errors.ts';
import {
  type EventRun,
  failedEvent,
  type NewEvent,
  recoveredEvent,
  succeededEvent,
  type WrittenObject,
} from '../webhooks/events.ts';
import { insertEvents } from '../webhooks/insert-events.sql.ts';
import { cancelBackfillsOf } from './backfills-repository.ts';
import { checkRedeliveryOf } from './redeliveries-repository.ts';
import { cancelReasons } from './run-errors.ts';

/**
 * Applies the consequences of a finished run in the transaction that records it. Counts consecutive
 * failures, inserts events for the webhook, and turns the config off if needed. Configs are
 * locked before their runs, in the same order as changes and deletions of configs.
 */

/** Number of consecutive slots with a configuration error after which a config is turned off. */
export const faultySlotsToTurnOff = 10;

export interface EndedRun {
  readonly environmentId: string;
  readonly runId: string;
}

/** Locks the config. Call this before writing the row of the run. */
export async function lockConfig(
  trx: DatabaseOrTransaction,
  { environmentId, configId }: { environmentId: string; configId: string },
): Promise<void> {
  await trx
    .selectFrom('export_configs')
    .select('id')
    .where('environment_id', '=', environmentId)
    .where('id', '=', configId)
    .forNoKeyUpdate()
    .execute();
}

interface FailedRun extends EventRun {
  readonly code: string;
  readonly message: string;
  readonly enabled: boolean;
  /** Consecutive failures before this run. */
  readonly failures: number;
  readonly faultySlots: number;
}

/**
 * Processes runs that this transaction has marked as failed, at most one per config. Cancelled runs
 * have no consequences.
 */
export async function applyFailureEffects(
  trx: Transaction<Tables>,
  boss: PgBoss,
  runs: readonly EndedRun[],
  now: Date,
): Promise<void> {
  if (runs.length === 0) return;
  const { rows } = await sql<FailedRun>`
    select config.environment_id as "environmentId", config.id as "configId", config.name as "configName",
      run.id as "runId", run.slot, run.snapshot_date as "snapshotDate", run.error_code as code, run.error_message as message,
      config.enabled, config.failures_in_a_row as failures, config.faulty_slots_in_a_row as "faultySlots"
    from unnest(${runs.map(run => run.environmentId)}::text[], ${runs.map(run => run.runId)}::text[]) as given (environment_id, id)
    join export_runs as run on run.environment_id = given.environment_id and run.id = given.id
    join export_configs as config on config.environment_id = run.environment_id and config.id = run.config_id
    where config.deleted_at is null and run.error_code <> all (${Object.keys(cancelReasons)}::text[])`.execute(
    trx,
  );
  if (rows.length === 0) return;
  const noted = rows.map(run => ({ run, ...streakAfter(run) }));
  const events = noted.flatMap(({ run, turnsOff }) => failureEvents(run, turnsOff));
  const inserted = await insertEvents(trx, boss, events, now);
  // A config whose only pushed event was `export.turned_off` gets a recovery event too.
  const pushed = new Set(
    inserted.map(event => JSON.stringify([event.environmentId, event.configId])),
  );
  const streaks = noted.map(({ run, faultySlots, turnsOff }) => ({
    environment_id: run.environmentId,
    id: run.configId,
    faulty_slots: faultySlots,
    turned_off_message: turnsOff ? turnedOffMessage(faultySlots, run.message) : null,
    is_pushed: pushed.has(JSON.stringify([run.environmentId, run.configId])),
  }));
  // One statement, because Postgres checks the foreign key of a row that is written twice in a
  // transaction. That check could deadlock with a deletion of the environment.
  await sql`
    update export_configs as config
    set failures_in_a_row = config.failures_in_a_row + 1,
      faulty_slots_in_a_row = streak.faulty_slots,
      has_pushed_failure = config.has_pushed_failure or streak.is_pushed,
      enabled = config.enabled and streak.turned_off_message is null,
      turned_off_at = case when streak.turned_off_message is null then config.turned_off_at else ${now} end,
      turned_off_message = coalesce(streak.turned_off_message, config.turned_off_message),
      -- Makes concurrent changes of the config fail, so that their callers read it again.
      updated_at = case
        when streak.turned_off_message is null then config.updated_at
        else greatest(${now}, config.updated_at + interval '1 millisecond')
      end
    from json_to_recordset(${JSON.stringify(streaks)}::json)
      as streak (environment_id text, id text, faulty_slots integer, turned_off_message text, is_pushed boolean)
    where config.environment_id = streak.environment_id and config.id = streak.id`.execute(trx);
  const turnedOff = noted.filter(({ turnsOff }) => turnsOff).map(({ run }) => toChange(run));
  for (const { environmentId, targetId } of turnedOff)
    await cancelBackfillsOf(trx, { environmentId, id: targetId }, now);
  await recordChanges(trx, systemActor('run-export'), turnedOff);
}

/** Returns the consecutive slots with a configuration error. Manual runs do not change it. */
function streakAfter(run: FailedRun): { faultySlots: number; turnsOff: boolean } {
  if (run.slot === null) return { faultySlots: run.faultySlots, turnsOff: false };
  const isFaulty = configurationErrors.some(code => code === run.code);
  const faultySlots = isFaulty ? run.faultySlots + 1 : 0;
  return { faultySlots, turnsOff: run.enabled && faultySlots >= faultySlotsToTurnOff };
}

function turnedOffMessage(faultySlots: number, lastError: string): string {
  return `${faultySlots} slots in a row failed because of the configuration. The last error: ${lastError}`;
}

function toChange({ environmentId, configId, code }: FailedRun) {
  const details = { reason: 'too_many_failures', lastError: code };
  return {
    environmentId,
    action: 'export_config.turned_off',
    targetId: configId,
    details,
  } satisfies Change;
}

function failureEvents(run: FailedRun, turnsOff: boolean): NewEvent[] {
  const types = turnsOff
    ? (['export.failed', 'export.turned_off'] as const)
    : (['export.failed'] as const);
  return types.map(type => failedEvent(type, run, run, run.failures + 1));
}

interface SuccessfulRun extends EventRun {
  /** Consecutive failures before this run. */
  readonly failures: number;
  readonly hadPushedFailure: boolean;
}

/**
 * Processes a run that this transaction has marked as successful. Manual runs count too, because
 * they prove that the configuration works.
 * @param object what the run has written
 */
export async function applySuccessEffects(
  trx: Transaction<Tables>,
  boss: PgBoss,
  { environmentId, runId }: EndedRun,
  object: WrittenObject,
  now: Date,
): Promise<void> {
  const { rows } = await sql<SuccessfulRun>`
    select config.environment_id as "environmentId", config.id as "configId", config.name as "configName",
      run.id as "runId", run.slot, run.snapshot_date as "snapshotDate",
      config.failures_in_a_row as failures, config.has_pushed_failure as "hadPushedFailure"
    from export_runs as run
    join export_configs as config on config.environment_id = run.environment_id and config.id = run.config_id
    where run.environment_id = ${environmentId} and run.id = ${runId} and config.deleted_at is null`.execute(
    trx,
  );
  const [run] = rows;
  if (run === undefined) return;
  await trx
    .updateTable('export_configs')
    .set({
      last_delivered_date: sql`greatest(last_delivered_date, ${run.snapshotDate}::date)`,
      ...(run.failures > 0 && {
        failures_in_a_row: 0,
        faulty_slots_in_a_row: 0,
        has_pushed_failure: false,
      }),
    })
    .where('environment_id', '=', environmentId)
    .where('id', '=', run.configId)
    .execute();
  await checkRedeliveryOf(trx, { environmentId, id: run.configId });
  const recovered = run.hadPushedFailure ? [recoveredEvent(run)] : [];
  await insertEvents(trx, boss, [succeededEvent(run, object), ...recovered], now);
}
