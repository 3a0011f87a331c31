import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { migrateToLatest } from '../src/db/migrator.ts';
import { type ApiClient, callApi, jsonContent } from './api-client.ts';
import { type AutomaticExports, runAutomaticExports } from './automatic-exports.ts';
import { startDatabase } from './embedded-database.ts';
import { type EmbeddedStorage, startStorage } from './embedded-storage.ts';
import { loadStory } from './load-story.ts';
import { startService } from './start-service.ts';
import { storyUpTo } from './story.ts';

/** Printed, and the same on every machine: the demo listens on loopback only and forgets everything. */
export const operatorToken = 'demo-operator-token-not-for-production';

const environments = [
  {
    id: 'demo-free',
    name: 'Demo on the free plan',
    plan: 'free',
    companies: 12,
    features: 6,
    seed: 1,
  },
  {
    id: 'demo-pro',
    name: 'Demo on the pro plan',
    plan: 'pro',
    companies: 40,
    features: 8,
    seed: 2,
  },
  {
    id: 'demo-enterprise',
    name: 'Demo on the enterprise plan',
    plan: 'enterprise',
    companies: 60,
    features: 10,
    seed: 3,
  },
] as const;

type EnvironmentId = (typeof environments)[number]['id'];

export interface Demo {
  /** Origin of the service. */
  readonly url: string;
  readonly storage: EmbeddedStorage;
  readonly automaticExports: AutomaticExports;
  /** One API key for each environment, with all scopes. */
  readonly keys: Readonly<Record<EnvironmentId, string>>;
}

export interface DemoOptions {
  readonly port: number;
  /** Of data, up to yesterday. Today comes on top. */
  readonly days: number;
  readonly now: () => Date;
  readonly signal: AbortSignal;
  /** A step has begun, or has come further; the same step is reported many times. */
  readonly onProgress: (step: string, detail?: string) => void;
  /** Called as soon as there is something to undo. Undoing runs backwards and never throws on the way. */
  readonly onCleanup: (undo: () => Promise<void>) => void;
}

/**
 * Starts everything: a temporary directory, Postgres, a bucket, the service; then fills three environments over HTTP.
 * @throws DemoError when the port is taken
 */
export async function startDemo(options: DemoOptions): Promise<Demo> {
  const { now, signal, onProgress, onCleanup } = options;
  await refuseBusyPort(options.port);

  const directory = await mkdtemp(path.join(os.tmpdir(), 'warehouse-export-demo-'));
  onCleanup(() => rm(directory, { recursive: true, force: true, maxRetries: 5 }));

  onProgress('Starting Postgres');
  const database = await startDatabase(directory, signal);
  onCleanup(database.stop);
  await migrateToLatest(database.url);

  onProgress('Starting an S3 endpoint');
  const storage = await startStorage(directory);
  onCleanup(storage.stop);

  onProgress('Starting the service');
  const service = await startService({
    databaseUrl: database.url,
    port: options.port,
    operatorToken,
    storageHost: new URL(storage.endpoint).host,
  });
  onCleanup(service.close);

  const client = { url: service.url, token: operatorToken };
  const keys: Partial<Record<EnvironmentId, string>> = {};
  for (const environment of environments) {
    await fill(client, environment, options);
    keys[environment.id] = await createKey(client, environment.id, signal);
  }
  onProgress('Exporting to a bucket');
  const environmentId = 'demo-enterprise';
  const automaticExports = await runAutomaticExports({
    client,
    environmentId,
    storage,
    service,
    now,
    signal,
  });
  return {
    url: service.url,
    storage,
    automaticExports,
    keys: keys as Record<EnvironmentId, string>,
  };
}

/** The port is taken. Its message is for the one who started the demo. */
export class DemoError extends Error {
  override readonly name = 'DemoError';
}

/** Asked before anything is started; the half minute until the service listens would be a long wait for a no. */
async function refuseBusyPort(port: number): Promise<void> {
  const probe = createServer();
  try {
    probe.listen(port, '127.0.0.1');
    await once(probe, 'listening');
  } catch (error) {
    const other = port < 65_535 ? port + 1 : 3000;
    throw new DemoError(
      `Port ${port} is taken. Stop what listens there, or choose another: PORT=${other} npm run demo`,
      {
        cause: error,
      },
    );
  } finally {
    probe.close();
  }
}

async function fill(
  client: ApiClient,
  environment: (typeof environments)[number],
  { days, now, signal, onProgress }: DemoOptions,
): Promise<void> {
  const instant = now();
  const { id, name, plan, seed, companies, features } = environment;
  await loadStory({
    client,
    environment: { id, name, plan },
    story: storyUpTo(instant, { seed, companies, features, days }),
    now: instant,
    signal,
    onProgress: ({ snapshots, totalSnapshots, rows }) =>
      onProgress(
        `Loading ${id}`,
        `${snapshots}/${totalSnapshots} snapshots, ${rows.toLocaleString('en')} rows`,
      ),
  });
}

async function createKey(
  client: ApiClient,
  environmentId: string,
  signal: AbortSignal,
): Promise<string> {
  const answer = await callApi(client, {
    method: 'POST',
    path: `/environments/${environmentId}/api-keys`,
    content: jsonContent({
      name: 'demo',
      scopes: ['exports:read', 'exports:write', 'snapshots:write'],
    }),
    signal,
  });
  return (answer as { key: string }).key;
}
