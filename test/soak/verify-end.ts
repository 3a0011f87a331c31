import { createHash } from 'node:crypto';
import { aggregations } from '../../src/exports/aggregations.ts';
import { contentsOf, readObject, s3Destination } from '../helpers/s3.ts';
import { waitFor } from '../helpers/wait-for.ts';
import { bucketOf, usesRole } from './buckets.ts';
import type { ConfigModel, KnownConfig } from './config-model.ts';
import { hasten, isOver, type RunRow, readRuns } from './runs.ts';
import { shownOn } from './snapshot-model.ts';
import { throughOutages, type World } from './world.ts';

/** Time limit for the remaining work after the load. Killed workers are noticed after 20 s. */
const limitMs = 180_000;

/**
 * Compares the database and the bucket with the answers that callers received, after all work has
 * ended.
 * @returns all runs
 */
export async function verifyEnd(world: World, configs: ConfigModel): Promise<readonly RunRow[]> {
  const countUnfinished = async () => {
    await hasten(world);
    await world.tick();
    const { rows } = await world.admin.query<{ left: number }>(
      `select (select count(*) from export_runs where state in ('queued', 'running') or job_id is not null)
         + (select count(*) from backfills where cancelled_at is null and pending_dates <> '{}')
         + (select count(*) from redelivery_checks join export_configs as config on config.environment_id = redelivery_checks.environment_id
              and config.id = config_id where config.redeliver and config.enabled and deleted_at is null)
         + (select count(*) from export_configs where deleted_at is not null) as left`,
    );
    return Number(rows[0]?.left);
  };
  await waitFor('the end of all runs, backfills, checks and configs', countUnfinished, {
    isWanted: left => left === 0,
    limitMs,
    retriesErrors: true,
  }).catch((error: Error) => world.faults.push(error.message));

  const runs = await readRuns(world);
  for (const config of configs.known) {
    await verifyConfig(world, config, runs);
    await verifyAuditLines(world, config, runs);
  }
  world.counts.redeliveries = runs.filter(({ trigger }) => trigger === 'redelivery').length;
  await verifyRedeliveries(world);
  await verifyFiles(world);
  await verifyIdle(world);
  return runs;
}

async function verifyConfig(
  world: World,
  config: KnownConfig,
  allRuns: readonly RunRow[],
): Promise<void> {
  const what = `${config.environmentId} ${config.id}`;
  const runs = allRuns.filter(run => run.config_id === config.id);
  const bucket = bucketOf(world, config.key);
  const found = await waitFor(
    'the content of the bucket',
    () => contentsOf(s3Destination({ bucket, key: config.key })),
    throughOutages,
  );
  if (found.unfinished.length > 0)
    world.faults.push(`${what}: unfinished uploads ${found.unfinished}`);
  if (config.isDeleted) {
    if (runs.length > 0) world.faults.push(`${what}: is deleted but has runs`);
    return;
  }
  for (const slot of config.slots) {
    const ofSlot = runs.filter(run => run.slot?.toISOString() === slot);
    const isStopped =
      config.mayBeWithoutRun.has(slot) && (ofSlot[0]?.error_code ?? 'cancelled') === 'cancelled';
    const isDone = ofSlot.length === 1 && ofSlot[0]?.state === 'successful';
    const isDenied = config.mayBeDenied.has(slot) && ofSlot[0]?.error_code === 'write_denied';
    if (!isDone && !((isStopped || isDenied) && ofSlot.length < 2)) {
      world.faults.push(`${what}: ${slot} has the runs ${JSON.stringify(ofSlot)}`);
    }
  }
  for (const run of runs) {
    if (!isOver(run)) world.faults.push(`${what}: has not ended: ${JSON.stringify(run)}`);
    const slot = run.slot?.toISOString();
    if (slot !== undefined && !config.slots.has(slot))
      world.faults.push(`${what}: ran ${slot}, which was not due`);
  }
  const written = new Map(
    runs.filter(({ state }) => state === 'successful').map(run => [run.object_key, run.sha256]),
  );
  // An attempt may have completed the object of a run that was cancelled before a later attempt.
  const uncertain = runs.filter(run => run.error_code === 'cancelled' && run.attempts > 1);
  const isUncertain = (key: string) =>
    uncertain.some(run => key.includes(`_${run.snapshot_date}.`));
  const objects = found.objects.filter(key => !key.includes('/_manifest/'));
  // A cancelled run may leave an object that it had completed before.
  const unknown = objects.filter(
    key => !written.has(key) && !isUncertain(key) && config.mayBeWithoutRun.size === 0,
  );
  if (unknown.length > 0) world.faults.push(`${what}: no run wrote ${unknown}`);
  for (const [key, sha256] of written) {
    const { body } = await waitFor(
      `the object ${key}`,
      () => readObject(bucket, key),
      throughOutages,
    );
    if (usesRole(key)) world.counts['compared objects of roles'] += 1;
    if (createHash('sha256').update(body).digest('hex') !== sha256 && !isUncertain(key)) {
      world.faults.push(`${what}: ${key} differs from the object of the last run`);
    }
  }
}

/**
 * Checks that configs which redeliver have delivered the newest version of each day of their slots.
 * A redelivery of that version may have failed, because the day was deleted meanwhile.
 */
async function verifyRedeliveries(world: World): Promise<void> {
  const { rows } = await waitFor(
    'all redeliveries',
    () =>
      world.admin.query(
        `select config.environment_id, config.id, delivered.snapshot_date
       from export_configs as config
       cross join lateral (
         select run.snapshot_date, (array_agg(run.snapshot_version order by run.finished_at desc))[1] as version
         from export_runs as run
         where run.environment_id = config.environment_id and run.config_id = config.id and run.state = 'successful'
         group by run.snapshot_date having bool_or(run.trigger = 'schedule')
       ) as delivered
       join snapshots on snapshots.environment_id = config.environment_id and snapshots.snapshot_date = delivered.snapshot_date
       where config.redeliver and config.enabled and config.deleted_at is null and delivered.version <> snapshots.version
         and not exists (
           select from export_runs as run
           where run.environment_id = config.environment_id and run.config_id = config.id and run.trigger = 'redelivery'
             and run.state = 'failed' and run.snapshot_version = snapshots.version)`,
      ),
    throughOutages,
  );
  for (const row of rows) world.faults.push(`not delivered again: ${JSON.stringify(row)}`);
}

/** Checks that each confirmed change has exactly one audit entry. */
async function verifyAuditLines(
  world: World,
  config: KnownConfig,
  runs: readonly RunRow[],
): Promise<void> {
  const { rows } = await waitFor(
    'the audit entries of a config',
    () =>
      world.admin.query<{ action: string; lines: number }>(
        `select action, count(*)::int as lines from audit_log
       where environment_id = $1 and (target_id = $2 or details ->> 'configId' = $2) group by action`,
        [config.environmentId, config.id],
      ),
    throughOutages,
  );
  const lines = new Map(rows.map(row => [row.action, row.lines]));
  const expectLines = (action: string, wanted: number) => {
    const found = lines.get(action) ?? 0;
    if (found !== wanted)
      world.faults.push(
        `${config.id}: expected ${wanted} audit entries of ${action}, found ${found}`,
      );
  };
  expectLines('export_config.created', 1);
  expectLines('export_config.deleted', config.isDeleted ? 1 : 0);
  const byHand = runs.filter(run => run.config_id === config.id && run.trigger === 'manual');
  if (!config.isDeleted) expectLines('export_run.started', byHand.length);
}

/** Compares every file with the answers that callers received. */
async function verifyFiles(world: World): Promise<void> {
  const listed = await waitFor(
    'the list of environments',
    () => world.call('elder api', '/v1/environments'),
    throughOutages,
  );
  for (const { id } of listed.json.items) {
    for (const aggregation of aggregations) {
      const span = { from: Date.now(), to: Date.now() };
      const { status, text, headers } = await world.call(
        'elder api',
        `/v1/environments/${id}/exports/${aggregation}.csv`,
      );
      const totalRows = Number(headers['x-total-rows']);
      const shown = shownOn(aggregation, world.today());
      const fault =
        status === 200 ? world.model.faultOf(id, shown, { text, totalRows }, span) : `${status}`;
      if (fault !== null) world.faults.push(`at the end, ${id} ${aggregation}: ${fault}`);
    }
  }
}

/** Checks that no transaction, lock, download or ingest is left. */
async function verifyIdle(world: World): Promise<void> {
  // A tick or a count of the queue may be running, but not for long.
  const readBusy = async () => {
    const { rows } = await world.admin.query(
      `select application_name, state, query from pg_stat_activity
       where application_name like 'warehouse-export%' and state <> 'idle' and now() - xact_start > interval '5 s'
       union all
       select 'lock', mode, objid::text from pg_locks where locktype = 'advisory' and granted`,
    );
    return rows;
  };
  await waitFor('the end of all transactions and locks', readBusy, {
    isWanted: rows => rows.length === 0,
    limitMs: 20_000,
    retriesErrors: true,
  }).catch((error: Error) => world.faults.push(error.message));
  for (const name of ['elder api', 'api'] as const) {
    const { text } = await world.call(name, '/metrics');
    for (const line of text.split('\n')) {
      if (
        /^whx_(downloads|ingests)_in_progress [^0]/.test(line) ||
        /state="waiting"\} [^0]/.test(line)
      ) {
        world.faults.push(`${name} at the end: ${line}`);
      }
    }
  }
}
