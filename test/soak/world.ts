import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import pg from 'pg';
import { type PostgresServer, startPostgresServer } from '../../dev/postgres-server.ts';
import { createJobQueue, retentionQueue, tickQueue } from '../../src/db/job-queue.ts';
import { migrateToLatest } from '../../src/db/migrator.ts';
import { type Answer, type Ask, ask } from '../helpers/http-client.ts';
import { eventually } from '../helpers/raw-http.ts';
import { type Gateway, startGateway } from '../helpers/s3-gateway.ts';
import { type S3Proxy, startS3Proxy } from '../helpers/s3-proxy.ts';
import { testAdminToken } from '../helpers/secrets.ts';
import { type ApiProcess, startApiProcess } from '../helpers/service-process.ts';
import { startTcpProxy, type TcpProxy } from '../helpers/tcp-proxy.ts';
import { createSnapshotModel, type SnapshotModel, type Span } from './snapshot-model.ts';

/** The processes of one deployment, what holds them together, and what is known of them. */

/** `elder` ones are never killed: they show leaks. */
export const apiNames = ['elder api', 'api'] as const;
export const workerNames = ['elder worker', 'worker'] as const;
export type ProcessName = (typeof apiNames)[number] | (typeof workerNames)[number];

export interface World {
  readonly model: SnapshotModel;
  readonly server: PostgresServer;
  /** Between the service and the database. */
  readonly databaseProxy: TcpProxy;
  /** For the test's own questions, past the proxy; fails while the database is away. */
  readonly admin: pg.Pool;
  readonly gateway: { current: Gateway };
  /** Where configs find it: the way there is slow, so that uploads are under way when something happens. */
  readonly storage: S3Proxy;
  readonly processes: Map<ProcessName, ApiProcess>;
  /** All that ever ran. */
  readonly history: { name: ProcessName; service: ApiProcess }[];
  /** What must not happen, and did. */
  readonly faults: string[];
  readonly counts: Record<Count, number>;
  /** When the database was away, or took no writes. */
  readonly outages: Span[];
  /** The service's date. */
  today(): string;
  turnClock(): void;
  /** Workers look for what is due; by themselves they do every minute. */
  tick(): Promise<void>;
  /** One of them removes what nobody needs any more; by themselves they do every night. */
  tidy(): Promise<void>;
  /** Starts the process of that name, where the one before listened. */
  start(name: ProcessName): Promise<void>;
  /** To an API process. @throws when the connection breaks */
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
  | 'loads'
  | 'refused loads'
  | 'downloads'
  | 'downloads cut off'
  | 'views compared'
  | 'config changes'
  | 'scheduled runs'
  | 'manual runs'
  | 'kills'
  | 'deploys'
  | 'database faults'
  | 'storage faults';

const counts = (): Record<Count, number> => ({
  requests: 0,
  unanswered: 0,
  unavailable: 0,
  loads: 0,
  'refused loads': 0,
  downloads: 0,
  'downloads cut off': 0,
  'views compared': 0,
  'config changes': 0,
  'scheduled runs': 0,
  'manual runs': 0,
  kills: 0,
  deploys: 0,
  'database faults': 0,
  'storage faults': 0,
});

const dayMs = 86_400_000;
const authorization = { authorization: `Bearer ${testAdminToken}` };

export async function startWorld(t: {
  teardown(handler: () => Promise<void>): void;
}): Promise<World> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'warehouse-export-world-'));
  const clockFile = path.join(directory, 'clock');
  const closers: (() => Promise<unknown>)[] = [
    async () => fs.rmSync(directory, { recursive: true, force: true }),
  ];
  const close = async () => {
    for (const closer of closers.splice(0).reverse()) await closer();
  };
  t.teardown(close);

  // What was committed has to be there after a crash of the server, if not of the machine.
  // A process that is killed may leave half a page written, which recovery mends from the whole page in the log alone.
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
  // Of one that is in use: its query tells.
  admin.on('connect', client => client.on('error', () => {}));
  closers.push(() => admin.end());
  const jobs = createJobQueue(admin, () => {});
  const gateway = { current: await startGateway() };
  closers.push(() => gateway.current.kill());
  const storage = await startS3Proxy(gateway.current.endpoint);
  storage.decide(({ url }) => (/partNumber=/.test(url ?? '') ? 'slow' : 'pass'));
  closers.push(storage.close);

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
    processes,
    history,
    faults,
    counts: counted,
    outages: [],
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

/** Asks whatever may fail while something is down, until it works. @throws after three minutes */
export async function insist<T>(work: () => Promise<T>, patienceMs = 180_000): Promise<T> {
  let result: { value: T } | undefined;
  let last: unknown;
  await eventually(
    async () => {
      result = await work().then(
        value => ({ value }),
        error => {
          last = error;
          return undefined;
        },
      );
      return result !== undefined;
    },
    'an answer',
    patienceMs,
  ).catch(() => {});
  if (result === undefined) throw last;
  return result.value;
}
