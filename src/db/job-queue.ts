import type { Pool } from 'pg';
import { type Db, PgBoss, type Queue } from 'pg-boss';
import type { TraceContext } from '../observability/tracing.ts';
import { createPool } from './connect.ts';

/** The queues and what pg-boss does for each. Its tables stand in the schema `pgboss` of the same database. */

/** What a job says: whose run it is. Everything else is read when the job runs. Never a secret. */
export interface RunJob extends RunOrigin {
  readonly environmentId: string;
  readonly configId: string;
  readonly runId: string;
}

/** Which event is to be pushed. Where to and signed with what is read when it is sent. */
export interface WebhookJob {
  readonly environmentId: string;
  readonly eventId: string;
}

/** The request that started a run by hand, for log and trace; empty for a slot's run. */
export interface RunOrigin extends TraceContext {
  readonly requestId?: string;
}

/** The snapshot to render. The version tells a failed attempt from one for a later version. */
export interface RenderJob {
  readonly environmentId: string;
  /** `YYYY-MM-DD` */
  readonly date: string;
  readonly version: string;
}

/** Renders the current version of one snapshot a job. */
export const renderQueue = 'render-snapshot';
/** Carries out one run a job. */
export const runQueue = 'run-export';
/** Where jobs of `runQueue` end whose last worker died: their runs are still to be marked as failed. */
export const lostRunQueue = 'run-export-lost';
/** Looks every minute for what is due. */
export const tickQueue = 'enqueue-due';
/** Sends one event to a failure webhook. */
export const webhookQueue = 'deliver-webhook';
/** Removes at night what nobody needs any more. */
export const retentionQueue = 'retention';

/**
 * A worker that says nothing for 20 s is taken for dead; that is looked for every 10 s (`supervision`), and the first
 * retry comes within 10 s, so another takes over in less than a minute. Later retries wait longer, with jitter: the
 * last comes after two to three hours.
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
  // 21 tries within about a day: pauses from 15 s, doubled each time, to two hours.
  {
    name: webhookQueue,
    expireInSeconds: 60,
    retryLimit: 20,
    retryDelay: 15,
    retryBackoff: true,
    retryDelayMax: 7_200,
    deleteAfterSeconds: 24 * 60 * 60,
  },
  // Failed jobs stay for an hour. The tick leaves their versions alone for that time.
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
    // One at a time; one that died makes room for the next within minutes.
    policy: 'exclusive',
    heartbeatSeconds: 60,
    expireInSeconds: 12 * 60 * 60,
    retryLimit: 0,
    deleteAfterSeconds: 7 * 24 * 60 * 60,
  },
];

/** Names of all queues, which `npm run migrate` creates. */
export const queueNames: readonly string[] = queues.map(queue => queue.name);

const supervision = {
  superviseIntervalSeconds: 10,
  monitorIntervalSeconds: 10,
  cronMonitorIntervalSeconds: 10,
  cronWorkerIntervalSeconds: 2,
};

/**
 * Jobs can be inserted at once; nothing is connected, watched or carried out before `start()`, which workers call.
 * @param onError hears of failures between jobs, such as a fetch while the database is away
 */
export function createJobQueue(pool: Pool, onError: (error: Error) => void): PgBoss {
  const boss = new PgBoss({
    db: overPool(pool),
    migrate: false,
    registerInstance: false,
    // It would trace every look for work, and put a midnight's thousands of runs into the trace of one tick.
    openTelemetry: { enabled: false },
    ...supervision,
  });
  boss.on('error', onError);
  return boss;
}

/**
 * Makes or updates pg-boss's own schema and our queues. Several processes may call it at once.
 * @throws what the database throws
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
      // Closing the connection gives the lock back.
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
