import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { type Client, createClient } from '@warehouse-export/client';
import { type EmbeddedS3Server, startEmbeddedS3Server } from '../dev/embedded-s3-server.ts';
import { startPostgresServer } from '../dev/postgres-server.ts';
import { migrateToLatest } from '../src/db/migrator.ts';
import { type AutomaticExports, runAutomaticExports } from './automatic-exports.ts';
import { startIdentityProvider } from './identity-provider.ts';
import { loadStory } from './load-story.ts';
import { buildClient, settingsPage } from './settings-page.ts';
import { startService } from './start-service.ts';
import { storyUpTo } from './story.ts';

/** Operator token of every demo. The demo listens on loopback only and deletes its data. */
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

/** Environment of the settings page and of the automatic exports. */
const exportingEnvironment = 'demo-enterprise';

/** Postgres parameters for a fast start and fast ingests. */
const settings = { autovacuum: 'off', jit: 'off', max_connections: '60', max_wal_size: '2GB' };

type EnvironmentId = (typeof environments)[number]['id'];

export interface Demo {
  /** Origin of the service. */
  readonly url: string;
  readonly storage: EmbeddedS3Server;
  readonly automaticExports: AutomaticExports;
  /** API keys with all scopes, by environment. */
  readonly keys: Readonly<Record<EnvironmentId, string>>;
}

export interface DemoOptions {
  readonly port: number;
  /** Number of snapshots up to yesterday. Today's snapshot is added. */
  readonly days: number;
  readonly now: () => Date;
  readonly signal: AbortSignal;
  /** Called when a step starts, and again with its progress. */
  readonly onProgress: (step: string, detail?: string) => void;
  /** Called with each clean-up action. The caller runs them in reverse order. */
  readonly onCleanup: (undo: () => Promise<void>) => void;
}

/**
 * Starts Postgres, an S3 endpoint and the service, then fills three environments over HTTP.
 *
 * @throws {DemoError} if the port is taken
 */
export async function startDemo(options: DemoOptions): Promise<Demo> {
  const { now, signal, onProgress, onCleanup } = options;
  const releasePort = await reservePort(options.port);
  onCleanup(releasePort);

  const directory = await mkdtemp(path.join(os.tmpdir(), 'warehouse-export-demo-'));
  onCleanup(() => rm(directory, { recursive: true, force: true, maxRetries: 5 }));

  onProgress('Starting Postgres');
  const database = await startPostgresServer({ settings, password: randomUUID(), signal });
  onCleanup(database.remove);
  await migrateToLatest(database.url);

  onProgress('Starting an S3 endpoint');
  const storage = await startEmbeddedS3Server(directory);
  onCleanup(storage.stop);

  const provider = await startIdentityProvider();
  onCleanup(provider.stop);
  const createSession = async () => ({
    environmentId: exportingEnvironment,
    token: await provider.createToken({
      environments: exportingEnvironment,
      scope: 'exports:read exports:write',
    }),
    defaults: {
      provider: 'custom',
      endpoint: storage.endpoint,
      bucket: storage.buckets.kept,
      region: storage.region,
      accessKeyId: storage.accessKeyId,
    },
  });

  onProgress('Starting the service');
  const clientFolder = path.join(directory, 'client');
  await buildClient(clientFolder, signal);
  const service = await startService({
    databaseUrl: database.url,
    port: options.port,
    operatorToken,
    storageHost: new URL(storage.endpoint).host,
    env: provider.env,
    plugin: settingsPage(clientFolder, createSession),
    beforeListen: releasePort,
  }).catch((error: unknown) => {
    throw describeListenError(options.port, error);
  });
  onCleanup(service.close);

  const client = createClient({ baseUrl: service.url, token: operatorToken });
  const keys: Partial<Record<EnvironmentId, string>> = {};
  for (const environment of environments) {
    await fill(client, environment, options);
    keys[environment.id] = await createKey(client, environment.id, signal);
  }
  onProgress('Exporting to a bucket');
  const automaticExports = await runAutomaticExports({
    client,
    environmentId: exportingEnvironment,
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

/** Error that prevents the start of the demo. The message is one line for the user. */
export class DemoError extends Error {
  override readonly name = 'DemoError';
}

/**
 * Listens on the port until the service does, so that a second demo fails at once.
 *
 * @returns a function that releases the port
 * @throws {DemoError} if the port is taken
 */
async function reservePort(port: number): Promise<() => Promise<void>> {
  if (port === 0) return async () => {};
  const server = createServer(socket => socket.destroy());
  try {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
  } catch (error) {
    throw describeListenError(port, error);
  }
  return async () => {
    if (!server.listening) return;
    server.close();
    await once(server, 'close');
  };
}

/** Returns a one-line error for a port that cannot be used. Returns other errors unchanged. */
function describeListenError(port: number, error: unknown): unknown {
  if (!(error instanceof Error && 'syscall' in error && error.syscall === 'listen')) return error;
  const other = port < 65_535 ? port + 1 : 3000;
  const problem =
    'code' in error && error.code === 'EADDRINUSE'
      ? 'is taken. Stop the program that listens there, or choose another'
      : `cannot be used (${error.message}). Choose another`;
  return new DemoError(`Port ${port} ${problem}: PORT=${other} npm run demo`, { cause: error });
}

async function fill(
  client: Client,
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
  client: Client,
  environmentId: string,
  signal: AbortSignal,
): Promise<string> {
  const { key } = await client.api.createApiKey({
    path: { environmentId },
    body: { name: 'demo', scopes: ['exports:read', 'exports:write', 'snapshots:write'] },
    signal,
  });
  return key;
}
