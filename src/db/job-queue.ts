import type { Pool } from 'pg';
import { type Db, PgBoss, type Queue } from 'pg-boss';
import type { TraceContext } from '../observability/tracing.ts';
import { createPool } from './connect.ts';

/**
 * Queues of pg-boss and their settings. pg-boss keeps its tables in the schema `pgboss` of the same
 * database.
 */

/**
 * Job that executes a run. It holds ids only, never a secret. All other data is read when the job
 * runs.
 */
export interface RunJob extends RunOrigin {
  readonly environmentId: string;
  readonly configId: string;
  readonly runId: string;
}

/** Job that sends an event. The URL and the secret are read when it is sent. */
export interface WebhookJob {
  readonly environmentId: string;
  readonly eventId: string;
}

/** Request that started a manual run, for log and trace; empty for scheduled runs. */
export interface RunOrigin extends TraceContext {
  readonly requestId?: string;
}

/** Job that renders a snapshot version. */
export interface RenderJob {
  readonly environmentId: string;
  /** `YYYY-MM-DD` */
  readonly date: string;
  readonly version: string;
}

/** Queue whose jobs each render one snapshot. */
export const renderQueue = 'render-snapshot';
/** Queue whose jobs each execute one run. */
export const runQueue = 'run-export';
/** Dead letter queue of `runQueue`. Its jobs mark runs as failed whose last worker died. */
export const lostRunQueue = 'run-export-lost';
/** Queue of the job that enqueues due work every minute. */
export const tickQueue = 'enqueue-due';
/** Queue whose jobs each send one event to a webhook. */
export const webhookQueue = 'deliver-webhook';
/** Queue of the nightly job that deletes expired data. */
export const retentionQueue = 'retention';

/**
 * Settings of the queues.
 *
 * A job without a heartbeat for 20 s counts as abandoned. `supervision` detects that every 10 s,
 * and the first retry follows within 10 s, so another worker takes over within a minute. Later
 * retries wait longer, with jitter. The last follows after two to three hours.
 */
const queues: readonly Queue[] = [
  { name: lostRunQueue, retryLimit: 100, retryDelay: 5, retryBackoff: true, retryDelayMax: 1_800 },
  {
    name: runQueue,
    deadLetter: lostRunQueue,
    heartbeatSeconds: 20,
    expireInSeconds: 12 * 60 * 60,
    retryLimit: 14,
    retryDelay: 5,
    retryBackoff: true,
    retryDelayMax: 1_800,
    deleteAfterSeconds: 24 * 60 * 60,
  },
  // 21 attempts within about a day. Pauses double from 15 s to 2 h.
  {
    name: webhookQueue,
    expireInSeconds: 60,
    retryLimit: 20,
    retryDelay: 15,
    retryBackoff: true,
    retryDelayMax: 7_200,
    deleteAfterSeconds: 24 * 60 * 60,
  },
  // Failed jobs stay for an hour. Meanwhile the tick does not enqueue their versions again.
  {
    name: renderQueue,
    policy: 'short',
    heartbeatSeconds: 20,
    expireInSeconds: 60 * 60,
    retryLimit: 3,
    retryDelay: 5,
    retryBackoff: true,
    retryDelayMax: 300,
    deleteAfterSeconds: 60 * 60,
  },
  {
    name: tickQueue,
    policy: 'short',
    retryLimit: 0,
    expireInSeconds: 120,
    deleteAfterSeconds: 60 * 60,
  },
  {
    name: retentionQueue,
    // One job at a time. An abandoned job is detected within minutes.
    policy: 'exclusive',
    heartbeatSeconds: 60,
    expireInSeconds: 12 * 60 * 60,
    retryLimit: 0,
    deleteAfterSeconds: 7 * 24 * 60 * 60,
  },
];

/** Names of all queues. `npm run migrate` creates them. */
export const queueNames: readonly string[] = queues.map(queue => queue.name);

const supervision = {
  superviseIntervalSeconds: 10,
  monitorIntervalSeconds: 10,
  cronMonitorIntervalSeconds: 10,
  cronWorkerIntervalSeconds: 2,
};

/**
 * Creates the client of the job queue. It can insert jobs without `start()`, which only workers
 * call.
 * @param onError receives errors outside of jobs, such as a fetch while the database is unreachable
 */
export function createJobQueue(pool: Pool, onError: (error: Error) => void): PgBoss {
  const boss = new PgBoss({
    db: overPool(pool),
    migrate: false,
    registerInstance: false,
    // Tracing by pg-boss would record every poll, and put thousands of runs into one tick's trace.
    openTelemetry: { enabled: false },
    ...supervision,
  });
  boss.on('error', onError);
  return boss;
}

/**
 * Creates or updates the schema of pg-boss and the queues. Several processes may call it at once.
 * @throws the errors of the database driver
 */
export async function installJobQueue(databaseUrl: string): Promise<void> {
  const pool = createPool({
    url: databaseUrl,
    applicationName: 'warehouse-export migrate',
    maxConnections: 3,
    statementTimeoutMs: 0,
    onIdleError: () => {},
  });
  try {
    const client = await pool.connect();
    try {
      await client.query(
        `select pg_advisory_lock(hashtextextended('warehouse-export job queue', 0))`,
      );
      await installWith(pool);
    } finally {
      // Closing the connection releases the lock.
      client.release(true);
    }
  } finally {
    await pool.end();
  }
}

async function installWith(pool: Pool): Promise<void> {
  const errors: Error[] = [];
  const boss = new PgBoss({
    db: overPool(pool),
    supervise: false,
    schedule: false,
    registerInstance: false,
    openTelemetry: { enabled: false },
  });
  boss.on('error', error => errors.push(error));
  await boss.start();
  try {
    for (const queue of queues) {
      const { name, policy: _policy, deadLetter: _deadLetter, ...options } = queue;
      await boss.createQueue(name, queue);
      await boss.updateQueue(name, options);
    }
  } finally {
    await boss.stop();
  }
  if (errors[0] !== undefined) throw errors[0];
}

function overPool(pool: Pool): Db {
  return { executeSql: async (text, values) => await pool.query(text, values) };
}
