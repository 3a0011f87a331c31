import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import pg from 'pg';
import type { Test } from 'tap';
import { type PostgresServer, startPostgresServer } from '../../dev/postgres-server.ts';
import { createJobQueue, retentionQueue, tickQueue } from '../../src/db/job-queue.ts';
import { migrateToLatest } from '../../src/db/migrator.ts';
import { createS3Client, runTimeouts } from '../../src/destinations/s3/client.ts';
import type { EventType } from '../../src/webhooks/events.ts';
import { type Aws, needsPort443, startAws } from '../helpers/aws.ts';
import { type Answer, type Ask, ask } from '../helpers/http-client.ts';
import { setPolicy } from '../helpers/s3.ts';
import { type Gateway, startGateway } from '../helpers/s3-gateway.ts';
import { type S3Proxy, startS3Proxy } from '../helpers/s3-proxy.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { type ApiProcess, startApiProcess } from '../helpers/service-process.ts';
import { startTcpProxy, type TcpProxy } from '../helpers/tcp-proxy.ts';
import { createSnapshotModel, type SnapshotModel, type Span } from './snapshot-model.ts';

/** Processes, database and storage of one deployment, and their expected state. */

/** The `elder` processes are never killed, so that they show leaks. */
export const apiNames = ['elder api', 'api'] as const;
export const workerNames = ['elder worker', 'worker'] as const;
export type ProcessName = (typeof apiNames)[number] | (typeof workerNames)[number];

export interface World {
  readonly model: SnapshotModel;
  readonly server: PostgresServer;
  /** Proxy between the service and the database. */
  readonly databaseProxy: TcpProxy;
  /** Direct connection of the test to the database. Fails while the database is down. */
  readonly admin: pg.Pool;
  readonly gateway: Gateway;
  /**
   * Slow proxy between the service and the storage. Uploads then last long enough to be hit by a
   * fault.
   */
  readonly storage: S3Proxy;
  /** Folders in which the storage refuses new objects. */
  readonly deniedFolders: Set<string>;
  /** Stand-in for AWS before the same storage. Null if its port cannot be used. */
  readonly aws: Aws | null;
  /** Roles by environment. */
  readonly roleArns: Map<string, string>;
  readonly processes: Map<ProcessName, ApiProcess>;
  /** Every process that was ever started. */
  readonly history: { name: ProcessName; service: ApiProcess }[];
  /** Findings: everything that must not happen but did. */
  readonly faults: string[];
  readonly counts: Record<Count, number>;
  /** Times in which the database was unreachable or read-only, or the storage was unreachable. */
  readonly outages: Readonly<Record<'database' | 'storage', Span[]>>;
  /** Current date of the service. */
  today(): string;
  turnClock(): void;
  /** Makes workers enqueue due runs. They also do so every minute. */
  tick(): Promise<void>;
  /** Makes one worker remove data past its retention. It also does so every night. */
  tidy(): Promise<void>;
  /** Starts the process with that name at the port of its predecessor. */
  start(name: ProcessName): Promise<void>;
  /**
   * Sends a request to an API process.
   * @throws if the connection breaks
   */
  call(name: ProcessName, path: string, options?: Call): Promise<Answer>;
  close(): Promise<void>;
}

export interface Call extends Ask {
  readonly json?: unknown;
}

export type Count =
  | 'requests'
  | 'unanswered'
  | 'unavailable'
  | 'ingests'
  | 'failed ingests'
  | 'downloads'
  | 'interrupted downloads'
  | 'compared read views'
  | 'config changes'
  | 'scheduled runs'
  | 'manual runs'
  | 'cancelled runs'
  | 'backfills'
  | 'redeliveries'
  | 'denied runs'
  | 'Parquet objects'
  | 'compared objects of roles'
  | EventType
  | 'messages'
  | 'rotated secrets'
  | 'receiver outages'
  | 'kills'
  | 'deploys'
  | 'database faults'
  | 'storage faults';

const counts = (): Record<Count, number> => ({
  requests: 0,
  unanswered: 0,
  unavailable: 0,
  ingests: 0,
  'failed ingests': 0,
  downloads: 0,
  'interrupted downloads': 0,
  'compared read views': 0,
  'config changes': 0,
  'scheduled runs': 0,
  'manual runs': 0,
  'cancelled runs': 0,
  backfills: 0,
  redeliveries: 0,
  'denied runs': 0,
  'Parquet objects': 0,
  'compared objects of roles': 0,
  'export.succeeded': 0,
  'export.failed': 0,
  'export.recovered': 0,
  'export.turned_off': 0,
  messages: 0,
  'rotated secrets': 0,
  'receiver outages': 0,
  kills: 0,
  deploys: 0,
  'database faults': 0,
  'storage faults': 0,
});

const dayMs = 86_400_000;
const authorization = { authorization: `Bearer ${testAdminToken}` };

export async function startWorld(t: Test): Promise<World> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'warehouse-export-world-'));
  const clockFile = path.join(directory, 'clock');
  const closers: (() => Promise<unknown>)[] = [
    async () => fs.rmSync(directory, { recursive: true, force: true }),
  ];
  const close = async () => {
    for (const closer of closers.splice(0).reverse()) await closer();
  };
  t.teardown(close);

  // Commits must survive a crash of the server, but not of the machine. A killed process may leave
  // a page half written. Recovery restores it from the full page in the log.
  const settings = { synchronous_commit: 'on', full_page_writes: 'on' };
  const server = await startPostgresServer({ settings });
  closers.push(server.remove);
  await migrateToLatest(server.url);
  const databaseProxy = await startTcpProxy(server.port);
  closers.push(databaseProxy.close);
  const admin = new pg.Pool({
    connectionString: server.url,
    max: 3,
    connectionTimeoutMillis: 5_000,
  });
  admin.on('error', () => {});
  // Errors of a connection in use also reject its query.
  admin.on('connect', client => client.on('error', () => {}));
  closers.push(() => admin.end());
  const jobs = createJobQueue(admin, () => {});
  const { skip = null } = await needsPort443();
  if (skip !== null) t.pass('configs with a role in the mixed load', { skip });
  const aws =
    skip === null ? await startAws({ teardown: closer => void closers.push(closer) }) : null;
  const gateway = aws?.gateway ?? (await startGateway());
  closers.push(gateway.stop);
  const storage = await startS3Proxy(gateway.endpoint);
  closers.push(storage.close);
  const deniedFolders = new Set<string>();
  storage.decide(({ method = '', url = '' }) => {
    if (/partNumber=/.test(url)) return 'slow';
    const isNewObject = method === 'PUT' || (method === 'POST' && /[?&]uploads/.test(url));
    const isDenied =
      isNewObject && [...deniedFolders].some(folder => url.includes(`/${folder}/company`));
    return isDenied ? 'deny' : 'pass';
  });
  if (aws !== null) {
    aws.port = Number(new URL(storage.endpoint).port);
    await letTestRead(aws);
  }

  const databaseUrl = server.url.replace(`:${server.port}`, `:${databaseProxy.port}`);
  let clockOffsetMs = 0;
  const writeClock = () => {
    fs.writeFileSync(`${clockFile}.new`, String(clockOffsetMs));
    fs.renameSync(`${clockFile}.new`, clockFile);
  };
  writeClock();

  const processes = new Map<ProcessName, ApiProcess>();
  const ports = new Map<ProcessName, number>();
  const history: World['history'] = [];
  closers.push(() => Promise.all([...processes.values()].map(service => service.end('SIGKILL'))));
  const start = async (name: ProcessName) => {
    const port = ports.get(name);
    const service = await startApiProcess(databaseUrl, {
      TEST_CLOCK_FILE: clockFile,
      PROCESS_ROLE: name.endsWith('worker') ? 'worker' : 'api',
      SHUTDOWN_DRAIN_SECONDS: '1',
      ...aws?.variables,
      ...(port === undefined ? {} : { PORT: String(port) }),
    });
    ports.set(name, service.port);
    processes.set(name, service);
    history.push({ name, service });
  };

  const counted = counts();
  const faults: string[] = [];
  return {
    model: createSnapshotModel(),
    server,
    databaseProxy,
    admin,
    gateway,
    storage,
    deniedFolders,
    aws,
    roleArns: new Map(),
    processes,
    history,
    faults,
    counts: counted,
    outages: { database: [], storage: [] },
    today: () => new Date(Date.now() + clockOffsetMs).toISOString().slice(0, 10),
    turnClock() {
      clockOffsetMs += dayMs;
      writeClock();
    },
    async tick() {
      await jobs.send(tickQueue).catch(() => {});
    },
    async tidy() {
      await jobs.send(retentionQueue).catch(() => {});
    },
    start,
    async call(name, path, { json, ...options } = {}) {
      const url = `http://127.0.0.1:${ports.get(name)}${path}`;
      counted.requests += 1;
      const answer = await ask(url, {
        ...options,
        headers: {
          ...authorization,
          ...(json === undefined ? {} : { 'content-type': 'application/json' }),
          ...options.headers,
        },
        body: json === undefined ? options.body : JSON.stringify(json),
      }).catch((error: unknown) => {
        counted.unanswered += 1;
        throw error;
      });
      if (answer.status === 503) {
        counted.unavailable += 1;
        if (!/^[1-9]\d*$/.test(answer.headers['retry-after'] ?? ''))
          faults.push(`503 without Retry-After: ${path}`);
      } else if (answer.status >= 500) {
        faults.push(`${options.method ?? 'GET'} ${path}: ${answer.status} ${answer.text}`);
      }
      return answer;
    },
    close,
  };
}

/** Lets the owner of the other bucket read the objects that roles write. */
async function letTestRead({ destination, customer, clientEnvironment }: Aws): Promise<void> {
  const { bucket } = destination;
  const owner = createS3Client(destination, customer, clientEnvironment, runTimeouts);
  const Action = ['s3:GetObject', 's3:ListBucket', 's3:ListBucketMultipartUploads'];
  const Resource = [`arn:aws:s3:::${bucket}`, `arn:aws:s3:::${bucket}/*`];
  await setPolicy(bucket, 'full', [{ Effect: 'Allow', Action, Resource }], owner);
}

/** Options of `waitFor` for work that may fail during an outage: repeats it until it succeeds. */
export const throughOutages = { isWanted: () => true, limitMs: 180_000, retriesErrors: true };
