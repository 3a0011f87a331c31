import { sql, type Transaction } from 'kysely';
import type { PgBoss } from 'pg-boss';
import { type Change, recordChanges, systemActor } from '../audit/audit-log.ts';
import type { DatabaseOrTransaction } from '../db/database.ts';
import type { Tables } from '../db/tables.ts';
import { configurationFaults } from '../destinations/storage-error.ts';
import { type EventData, insertEvents, type NewEvent } from '../webhooks/insert-events.ts';
import { stopReasons } from './run-errors.ts';

/**
 * What follows from the end of a run, in the transaction that records it: how many failed in a row, what is pushed to
 * the failure webhook, and whether the config turns itself off. Configs are locked before their runs, as whoever
 * changes or deletes a config does.
 */

/** So many slots in a row that failed because of the configuration turn a config off. */
export const faultySlotsToTurnOff = 10;

export interface EndedRun {
  readonly environmentId: string;
  readonly runId: string;
}

/** Before the run's row is written. */
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

interface NotedFailure {
  readonly environmentId: string;
  readonly configId: string;
  readonly configName: string;
  readonly runId: string;
  readonly slot: Date | null;
  readonly snapshotDate: string;
  readonly code: string;
  readonly message: string;
  readonly consecutiveFailures: number;
  readonly turnsOff: boolean;
}

/**
 * For runs that this transaction has marked as failed, one of a config at most. Those that somebody stopped are nobody's
 * fault and leave everything as it was. A manual run is counted as a failure, but not as a slot.
 */
export async function noteFailures(
  trx: Transaction<Tables>,
  boss: PgBoss,
  runs: readonly EndedRun[],
  now: Date,
): Promise<void> {
  if (runs.length === 0) return;
  const { rows } = await sql<NotedFailure>`
    update export_configs as config
    set failures_in_a_row = config.failures_in_a_row + 1,
      faulty_slots_in_a_row = ended.faulty_slots,
      enabled = config.enabled and not ended.turns_off,
      turned_off_at = case when ended.turns_off then ${now} else config.turned_off_at end,
      turned_off_message = case
        when ended.turns_off then format(
          '%s slots in a row failed because of the configuration. The last error: %s', ended.faulty_slots, ended.error_message)
        else config.turned_off_message
      end,
      -- Whoever is changing what they read before has to read again.
      updated_at = case
        when ended.turns_off then greatest(${now}, config.updated_at + interval '1 millisecond')
        else config.updated_at
      end
    from (
      select run.*, counted.faulty_slots,
        config.enabled and counted.is_faulty_slot and counted.faulty_slots >= ${faultySlotsToTurnOff} as turns_off
      from unnest(${runs.map(run => run.environmentId)}::text[], ${runs.map(run => run.runId)}::text[]) as given (environment_id, id)
      join export_runs as run on run.environment_id = given.environment_id and run.id = given.id
      join export_configs as config on config.environment_id = run.environment_id and config.id = run.config_id
      cross join lateral (
        select run.slot is not null and run.error_code = any (${configurationFaults}::text[]) as is_faulty_slot
      ) as kind
      cross join lateral (
        select kind.is_faulty_slot,
          case
            when kind.is_faulty_slot then config.faulty_slots_in_a_row + 1
            when run.slot is null then config.faulty_slots_in_a_row
            else 0
          end as faulty_slots
      ) as counted
      where run.error_code <> all (${Object.keys(stopReasons)}::text[])
    ) as ended
    where config.environment_id = ended.environment_id and config.id = ended.config_id and config.deleted_at is null
    returning config.environment_id as "environmentId", config.id as "configId", config.name as "configName",
      ended.id as "runId", ended.slot, ended.snapshot_date as "snapshotDate", ended.error_code as code,
      ended.error_message as message, config.failures_in_a_row as "consecutiveFailures", ended.turns_off as "turnsOff"`.execute(
    trx,
  );
  await recordChanges(trx, systemActor('run-export'), rows.filter(row => row.turnsOff).map(toChange));
  const inserted = await insertEvents(trx, boss, rows.flatMap(eventsOf), now);
  const pushed = inserted.filter(({ type }) => type === 'export.failed');
  if (pushed.length === 0) return;
  await sql`
    update export_configs as config
    set has_pushed_failure = true
    from unnest(${pushed.map(event => event.environmentId)}::text[], ${pushed.map(event => event.configId)}::text[]) as given (environment_id, id)
    where config.environment_id = given.environment_id and config.id = given.id`.execute(trx);
}

function toChange({ environmentId, configId, code }: NotedFailure): Change {
  const details = { reason: 'too_many_failures', lastError: code };
  return { environmentId, action: 'export_config.turned_off', targetId: configId, details };
}

function eventsOf({ slot, code, message, turnsOff, ...rest }: NotedFailure): NewEvent[] {
  const data: EventData = { ...toEventData({ ...rest, slot }), error: { code, message } };
  const failed: NewEvent = { type: 'export.failed', data };
  return turnsOff ? [failed, { type: 'export.turned_off', data }] : [failed];
}

interface NotedSuccess {
  readonly environmentId: string;
  readonly configId: string;
  readonly configName: string;
  readonly runId: string;
  readonly slot: Date | null;
  readonly snapshotDate: string;
  readonly hadPushedFailure: boolean;
}

/** For a run that this transaction has marked as successful, a manual one as well: it proves the configuration right. */
export async function noteSuccess(
  trx: Transaction<Tables>,
  boss: PgBoss,
  { environmentId, runId }: EndedRun,
  now: Date,
): Promise<void> {
  const { rows } = await sql<NotedSuccess>`
    update export_configs as config
    set failures_in_a_row = 0, faulty_slots_in_a_row = 0, has_pushed_failure = false
    from export_runs as run
    join export_configs as before on before.environment_id = run.environment_id and before.id = run.config_id
    where run.environment_id = ${environmentId} and run.id = ${runId}
      and config.environment_id = run.environment_id and config.id = run.config_id
      and config.failures_in_a_row > 0 and config.deleted_at is null
    returning config.environment_id as "environmentId", config.id as "configId", config.name as "configName",
      run.id as "runId", run.slot, run.snapshot_date as "snapshotDate", before.has_pushed_failure as "hadPushedFailure"`.execute(
    trx,
  );
  const recovered = rows
    .filter(row => row.hadPushedFailure)
    .map((row): NewEvent => {
      return { type: 'export.recovered', data: toEventData({ ...row, consecutiveFailures: 0 }) };
    });
  await insertEvents(trx, boss, recovered, now);
}

/** The bucket was asked and agreed: what failed before says nothing of what is stored now. */
export async function forgetFaultySlots(
  trx: DatabaseOrTransaction,
  { environmentId, id }: { environmentId: string; id: string },
): Promise<void> {
  await trx
    .updateTable('export_configs')
    .set({ faulty_slots_in_a_row: 0 })
    .where('environment_id', '=', environmentId)
    .where('id', '=', id)
    .execute();
}

/** Named one by one, in the order in which the receiver reads them. */
function toEventData(
  row: Omit<NotedSuccess, 'hadPushedFailure'> & { consecutiveFailures: number },
): EventData {
  return {
    environmentId: row.environmentId,
    configId: row.configId,
    configName: row.configName,
    runId: row.runId,
    slot: row.slot?.toISOString() ?? null,
    snapshotDate: row.snapshotDate,
    error: null,
    consecutiveFailures: row.consecutiveFailures,
  };
}
