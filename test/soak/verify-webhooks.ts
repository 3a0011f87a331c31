import { isDeepStrictEqual } from 'node:util';
import { webhookQueue } from '../../src/db/job-queue.ts';
import type { EventType } from '../../src/webhooks/events.ts';
import { waitFor } from '../helpers/wait-for.ts';
import type { ConfigModel, KnownConfig } from './config-model.ts';
import { isOver, type RunRow } from './runs.ts';
import { hastenMessages, type ReceivedEvent, type Webhooks } from './webhooks.ts';
import type { World } from './world.ts';

/** Time limit for the messages that are left after the load. */
const limitMs = 120_000;

interface ExpectedEvent {
  readonly type: EventType;
  readonly run: RunRow;
  /** Members that the data has in addition to those of the run. */
  readonly data: Readonly<Record<string, unknown>>;
}

/**
 * Checks that each event of a run that the webhook selects was accepted under one id and with the
 * right data, and that no other event was sent. Events of deleted configs may be dropped.
 */
export async function verifyWebhooks(
  world: World,
  configs: ConfigModel,
  webhooks: Webhooks,
  runs: readonly RunRow[],
): Promise<void> {
  const countUndelivered = async () => {
    await hastenMessages(world);
    const { rows } = await world.admin.query<{ left: number }>(
      `select count(*)::int as left from pgboss.job where name = $1 and state <= 'active'`,
      [webhookQueue],
    );
    return rows[0]?.left;
  };
  await waitFor('the delivery of all messages', countUndelivered, {
    isWanted: left => left === 0,
    limitMs,
    retriesErrors: true,
  }).catch((error: Error) => world.faults.push(error.message));

  const received = Map.groupBy(webhooks.received.values(), ({ data }) => data['configId']);
  for (const config of configs.known) {
    const events = received.get(config.id) ?? [];
    received.delete(config.id);
    if (config.isDeleted) continue;
    const selected = webhooks.selectedBy(config.environmentId);
    const expected = expectedEvents(runs.filter(run => run.config_id === config.id)).filter(
      ({ type }) => selected.includes(type),
    );
    verifyEvents(world, config, expected, events);
  }
  for (const [configId, events] of received)
    world.faults.push(`events of the unknown config ${configId}: ${JSON.stringify(events)}`);
}

/** Returns the events that follow from the runs of one config. They run one after another. */
function expectedEvents(runs: readonly RunRow[]): ExpectedEvent[] {
  const expected: ExpectedEvent[] = [];
  const failedDays = new Set<string>();
  let consecutiveFailures = 0;
  let isFailureRecorded = false;
  for (const run of runs.filter(isOver).filter(({ error_code }) => error_code !== 'cancelled')) {
    if (run.state === 'successful') {
      const { object_key: objectKey, sha256 } = run;
      const size = { bytes: Number(run.bytes), rowCount: Number(run.row_count) };
      expected.push({ type: 'export.succeeded', run, data: { objectKey, ...size, sha256 } });
      const data = { error: null, consecutiveFailures: 0 };
      if (isFailureRecorded) expected.push({ type: 'export.recovered', run, data });
      consecutiveFailures = 0;
      isFailureRecorded = false;
      continue;
    }
    consecutiveFailures += 1;
    const day = endOf(run).slice(0, 10);
    if (failedDays.has(day)) continue;
    failedDays.add(day);
    isFailureRecorded = true;
    const error = { code: run.error_code, message: run.error_message };
    expected.push({ type: 'export.failed', run, data: { error, consecutiveFailures } });
  }
  return expected;
}

function verifyEvents(
  world: World,
  config: KnownConfig,
  expected: readonly ExpectedEvent[],
  events: readonly ReceivedEvent[],
): void {
  const what = `${config.environmentId} ${config.id}`;
  const keyOf = (type: string, runId: unknown) => `${type} of the run ${runId}`;
  const received = Map.groupBy(events, ({ type, data }) => keyOf(type, data['runId']));
  for (const { type, run, data } of expected) {
    const key = keyOf(type, run.id);
    const found = received.get(key) ?? [];
    const [event] = found;
    received.delete(key);
    if (event?.isAccepted !== true || found.length > 1) {
      world.faults.push(`${what}: expected ${key} once, received ${JSON.stringify(found)}`);
      continue;
    }
    world.counts[type] += 1;
    const { configName, manifestKey, ...shown } = event.data;
    const wanted = {
      environmentId: run.environment_id,
      configId: run.config_id,
      runId: run.id,
      slot: run.slot?.toISOString() ?? null,
      snapshotDate: run.snapshot_date,
      ...data,
    };
    const isRight =
      event.environmentId === config.environmentId &&
      event.timestamp === endOf(run) &&
      isDeepStrictEqual(shown, wanted) &&
      config.names.has(String(configName)) &&
      isManifestOf(config, data['objectKey'], manifestKey);
    if (!isRight)
      world.faults.push(
        `${what}: expected ${key} ${JSON.stringify(wanted)}, received ${JSON.stringify(event)}`,
      );
  }
  for (const [key, others] of received)
    world.faults.push(`${what}: unexpected ${key}: ${JSON.stringify(others)}`);
}

/** Returns true if the config may have written this manifest. Failures name none. */
function isManifestOf(config: KnownConfig, objectKey: unknown, manifestKey: unknown): boolean {
  if (objectKey === undefined) return manifestKey === undefined;
  const file = String(objectKey).replace(`${config.key}/`, '');
  return manifestKey === null
    ? config.manifests.has(false)
    : config.manifests.has(true) && manifestKey === `${config.key}/_manifest/${file}.json`;
}

const endOf = (run: RunRow) => run.finished_at?.toISOString() ?? '';
