import { waitFor } from '../helpers/wait-for.ts';
import { withAccessKey, withRole } from './buckets.ts';
import type { Random } from './random.ts';
import { type ProcessName, throughOutages, type World } from './world.ts';

/** Expected state of one export config, from the answers that callers received. */
export interface KnownConfig {
  readonly environmentId: string;
  readonly key: string;
  /** Names that the config has had or may have had. */
  readonly names: Set<string>;
  /** Values that its `manifest` has had or may have had. */
  readonly manifests: Set<boolean>;
  /** Empty until the id is known. */
  id: string;
  enabled: boolean;
  schedule: 'daily' | 'weekly';
  isDeleted: boolean;
  /**
   * True while a caller changes the config or awaits its run. Concurrent changes have no known
   * order.
   */
  isBusy: boolean;
  /** Slots whose runs may have been cancelled or never started because of a change. */
  readonly mayBeWithoutRun: Set<string>;
  /** Slots whose runs may have failed because the storage refused their objects. */
  readonly mayBeDenied: Set<string>;
  /** Slots that must have a run. */
  readonly slots: Set<string>;
}

export interface ConfigModel {
  readonly known: KnownConfig[];
  /** Slot that the clock passed last. */
  currentSlot: string | null;
  /** True while the clock moves over midnight. Configs do not change meanwhile. */
  isClosed: boolean;
  changing: number;
}

export const createConfigModel = (): ConfigModel => ({
  known: [],
  currentSlot: null,
  isClosed: false,
  changing: 0,
});

const pathOf = (environmentId: string, id?: string) =>
  `/v1/environments/${environmentId}/export-configs${id === undefined ? '' : `/${id}`}`;

/**
 * Calls `work` with a random config that nothing else uses, and reserves it until then. Does nothing
 * if there is none, or while the clock moves over midnight.
 */
export async function withFreeConfig(
  configs: ConfigModel,
  random: Random,
  work: (config: KnownConfig) => Promise<void>,
): Promise<void> {
  const free = configs.known.filter(({ isBusy, isDeleted }) => !isBusy && !isDeleted);
  if (configs.isClosed || free.length === 0) return;
  const config = random.pick(free);
  config.isBusy = true;
  try {
    await work(config);
  } finally {
    config.isBusy = false;
  }
}

/** Creates, changes or deletes a config of the environment, unless the clock is about to move. */
export async function changeSomeConfig(
  world: World,
  configs: ConfigModel,
  random: Random,
  caller: { api: ProcessName; environmentId: string; most: number },
): Promise<void> {
  if (configs.isClosed) return;
  configs.changing += 1;
  try {
    const own = configs.known.filter(
      ({ environmentId, isDeleted }) => environmentId === caller.environmentId && !isDeleted,
    );
    const free = own.filter(({ isBusy }) => !isBusy);
    if (own.length < caller.most && random.chance(0.4))
      return await create(world, configs, random, caller);
    if (free.length === 0) return;
    const config = random.pick(free);
    config.isBusy = true;
    try {
      await change(world, configs, random, caller.api, config);
    } finally {
      config.isBusy = false;
    }
  } finally {
    configs.changing -= 1;
  }
}

export async function create(
  world: World,
  configs: ConfigModel,
  random: Random,
  { api, environmentId }: { api: ProcessName; environmentId: string },
): Promise<void> {
  // One of five configs uses a role: three of those that exist at the start.
  const isForRole = configs.known.length % 5 === 2;
  const { aws } = world;
  const { key, body } =
    aws !== null && isForRole ? await withRole(world, aws, environmentId) : withAccessKey(world);
  const schedule = random.chance(0.85) ? 'daily' : 'weekly';
  const isParquet = random.chance(0.3);
  const json = {
    name: 'Nightly',
    schedule,
    ...body,
    format: isParquet ? 'parquet' : 'csv',
    compression: !isParquet && random.chance(0.5) ? 'gzip' : 'none',
    manifest: random.chance(0.5),
    catchUp: random.chance(0.5) ? 'all' : 'newest',
    redeliver: random.chance(0.5),
  };
  world.counts['config changes'] += 1;
  const config: KnownConfig = {
    environmentId,
    key,
    names: new Set([json.name]),
    manifests: new Set([json.manifest]),
    id: '',
    enabled: true,
    schedule,
    isDeleted: true,
    isBusy: true,
    mayBeWithoutRun: new Set(),
    mayBeDenied: new Set(),
    slots: new Set(),
  };
  const from = Date.now();
  const answer = await world
    .call(api, pathOf(environmentId), { method: 'POST', json })
    .catch(() => null);
  if (answer?.status === 201) config.id = answer.json.id;
  else if (answer === null || answer.status === 503)
    config.id = (await findByKey(world, config)) ?? '';
  else if (answer.status !== 422 || !wasStorageAway(world, from)) {
    world.faults.push(`a valid config was answered ${answer.status} ${answer.text}`);
  }
  if (config.id === '') return;
  config.isDeleted = false;
  config.isBusy = false;
  configs.known.push(config);
}

/** Returns true if a check since that time may have failed. */
function wasStorageAway({ outages }: World, from: number): boolean {
  return outages.storage.some(({ to }) => to >= from);
}

async function findByKey(
  world: World,
  { environmentId, key }: KnownConfig,
): Promise<string | null> {
  return await waitFor(
    'the list of configs',
    async () => {
      const answer = await world.call('elder api', `${pathOf(environmentId)}?limit=100`);
      if (answer.status !== 200) throw new Error(`${answer.status}`);
      return answer.json.items.find((item: { key: string }) => item.key === key)?.id ?? null;
    },
    throughOutages,
  );
}

async function change(
  world: World,
  configs: ConfigModel,
  random: Random,
  api: ProcessName,
  config: KnownConfig,
): Promise<void> {
  const path = pathOf(config.environmentId, config.id);
  const kind = random.pickWeighted([
    [3, 'describe'],
    [2, 'switch'],
    [1, 'reschedule'],
    [1, 'delete'],
  ] as const);
  const patch =
    kind === 'describe'
      ? { name: `Nightly ${random.integer(100)}`, manifest: random.chance(0.5) }
      : kind === 'switch'
        ? { enabled: !config.enabled }
        : { schedule: config.schedule === 'daily' ? 'weekly' : 'daily' };
  world.counts['config changes'] += 1;
  if (patch.name !== undefined) {
    config.names.add(patch.name);
    config.manifests.add(patch.manifest);
  }
  // This may cancel a running run, or prevent a run that is about to start.
  if (kind !== 'describe' && configs.currentSlot !== null)
    config.mayBeWithoutRun.add(configs.currentSlot);
  const from = Date.now();
  const answer = await world
    .call(api, path, kind === 'delete' ? { method: 'DELETE' } : { method: 'PATCH', json: patch })
    .catch(() => null);
  const mayRefuse = wasStorageAway(world, from) ? [422] : [];
  if (answer !== null && ![200, 204, 503, ...mayRefuse].includes(answer.status)) {
    world.faults.push(`${kind} of a config was answered ${answer.status} ${answer.text}`);
  }
  await waitFor(
    'the state of a config',
    async () => {
      const found = await world.call('elder api', path);
      if (found.status === 404) {
        config.isDeleted = true;
        return;
      }
      if (found.status !== 200) throw new Error(`${found.status}`);
      config.enabled = found.json.enabled;
      config.schedule = found.json.schedule;
    },
    throughOutages,
  );
  if (answer?.status === 204 && !config.isDeleted)
    world.faults.push('a deleted config still exists');
  if (
    answer?.status === 200 &&
    kind === 'switch' &&
    config.enabled !== (patch as { enabled: boolean }).enabled
  ) {
    world.faults.push('the enabled flag of a config did not change');
  }
}
