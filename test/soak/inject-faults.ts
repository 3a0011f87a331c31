import { setTimeout as delay } from 'node:timers/promises';
import type { StopMode } from '../../dev/postgres-server.ts';
import { waitFor } from '../helpers/wait-for.ts';
import type { Random } from './random.ts';
import { throughOutages, type World } from './world.ts';

/** A fault of a deployment. Resolves when everything runs again. */
export type Fault = (world: World, random: Random) => Promise<void>;

export const killApi: Fault = (world, random) => killProcess(world, random, 'api');
export const killWorker: Fault = (world, random) => killProcess(world, random, 'worker');

async function killProcess(world: World, random: Random, name: 'api' | 'worker'): Promise<void> {
  // Uploads are short: half of the kills wait for one.
  if (name === 'worker' && random.chance(0.5)) await untilUploading(world, random.integer(300));
  world.counts.kills += 1;
  await world.processes.get(name)?.end('SIGKILL');
  await delay(random.integer(1_500));
  await waitFor(`the start of ${name}`, () => world.start(name), throughOutages);
}

async function untilUploading(world: World, thenMs: number): Promise<void> {
  const query = `select from export_runs where state = 'running' and upload_id is not null`;
  const isUploading = async () => (await world.admin.query(query)).rowCount;
  await waitFor('an upload', isUploading, { limitMs: 15_000, retriesErrors: true }).then(
    () => delay(thenMs),
    () => {},
  );
}

/** Sends SIGTERM to a process and starts a new one, as a deploy does. */
export const deploy: Fault = async (world, random) => {
  const name = random.pick(['api', 'worker'] as const);
  world.counts.deploys += 1;
  const code = await world.processes.get(name)?.end('SIGTERM');
  if (code !== 0) world.faults.push(`${name} ended with ${code} after SIGTERM`);
  await waitFor(`the start of ${name}`, () => world.start(name), throughOutages);
};

export const crashDatabase: Fault = async (world, random) => {
  await stopDatabase(world, random, random.pick(['immediate', 'kill'] as const));
};

export const restartDatabase: Fault = (world, random) => stopDatabase(world, random, 'fast');

async function stopDatabase(world: World, random: Random, mode: StopMode): Promise<void> {
  await asOutage(world, 'database', async () => {
    await world.server.stop(mode);
    await delay(random.integer(2_000));
    // After SIGKILL the child processes of Postgres need a moment to exit.
    await waitFor('the start of Postgres', () => world.server.start(), {
      ...throughOutages,
      limitMs: 60_000,
    });
  });
}

async function asOutage(
  world: World,
  what: 'database' | 'storage',
  work: () => Promise<unknown>,
): Promise<void> {
  world.counts[`${what} faults`] += 1;
  const outage = { from: Date.now(), to: Infinity };
  world.outages[what].push(outage);
  await work();
  outage.to = Date.now();
}

/**
 * Kills one server process of Postgres, as the kernel does when memory is short. Postgres ends all
 * others and recovers.
 */
export const killBackend: Fault = async (world, random) => {
  const { rows } = await world.admin
    .query<{ pid: number }>(
      `select pid from pg_stat_activity where application_name like 'warehouse-export%' order by pid`,
    )
    .catch(() => ({ rows: [] }));
  if (rows.length === 0) return;
  await asOutage(world, 'database', async () => {
    process.kill(random.pick(rows).pid, 'SIGKILL');
    await waitFor('the recovery of Postgres', () => world.admin.query('select'), throughOutages);
  });
};

/** Simulates a failover: connections break, then the server is unreachable, then read-only. */
export const failOver: Fault = async (world, random) => {
  const setReadOnly = async (value: 'on' | 'off') => {
    await waitFor(
      'a change of the read-only setting',
      async () => {
        await world.admin.query(`alter system set default_transaction_read_only = ${value}`);
        await world.admin.query('select pg_reload_conf()');
      },
      throughOutages,
    );
  };
  await asOutage(world, 'database', async () => {
    world.databaseProxy.cut();
    await setReadOnly('on');
    await delay(random.integer(1_500));
    world.databaseProxy.open();
    await delay(500 + random.integer(3_000));
    await setReadOnly('off');
  });
};

export const cutConnections: Fault = world =>
  asOutage(world, 'database', async () => {
    world.databaseProxy.cut();
    world.databaseProxy.open();
  });

export const killStorage: Fault = (world, random) =>
  asOutage(world, 'storage', async () => {
    await world.gateway.kill();
    await delay(random.integer(3_000));
    await world.gateway.restart();
  });

type Weighted = readonly (readonly [weight: number, fault: Fault])[];

/** Faults of the processes of the service. */
export const processFaults: Weighted = [
  [4, killWorker],
  [3, killApi],
  [3, deploy],
];

/** Faults of the database and the storage. */
export const surroundingFaults: Weighted = [
  [1, killStorage],
  [1, crashDatabase],
  [1, failOver],
  [1, killBackend],
  [1, cutConnections],
  [1, restartDatabase],
  [2, killStorage],
];
