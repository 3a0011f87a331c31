import type { Pool } from 'pg';
import type { PgBoss } from 'pg-boss';
import type { Logger } from 'pino';
import type { Config } from './config/config.ts';
import { createKysely, createPool } from './db/connect.ts';
import type { Database } from './db/database.ts';
import { createJobQueue } from './db/job-queue.ts';
import type { ClientEnvironment } from './destinations/s3/client.ts';
import { createRoles } from './destinations/s3/roles.ts';
import { createIssuerKeys } from './environments/auth/jwks.ts';
import { createUserTokens, type UserTokens } from './environments/auth/jwt.ts';
import { createRequestTurns, type RequestTurns } from './environments/auth/request-turns.ts';
import { runErrorCodes } from './export-configs/run-error.ts';
import { checkRedeliveriesOf } from './export-runs/redeliveries-repository.ts';
import { selectQueueState } from './export-runs/select-queue-state.sql.ts';
import { createSlowLane, type SlowLane } from './export-runs/slow-lane.ts';
import { createLinkTokens, type LinkTokens } from './exports/link-tokens.ts';
import type { ExportSource } from './exports/open-export.ts';
import {
  createParquetPlaces,
  type ParquetPlaces,
  parquetPlacesOptions,
} from './exports/parquet/places.ts';
import { stallTimeoutMs } from './http/stalls.ts';
import { createPrometheusMetrics, type PrometheusMetrics } from './observability/prometheus.ts';
import { parseEndpointAllowlist } from './outbound/endpoint-allowlist.ts';
import { type CheckPlaces, createCheckPlaces } from './shared/check-places.ts';
import { type ConcurrencyLimit, createConcurrencyLimit } from './shared/concurrency-limit.ts';
import {
  createRenderer,
  type Renderer,
  renderingsAtOnce,
} from './snapshots/render/render-snapshot.ts';
import { runsAtOnce, slowLaneOptions } from './worker.ts';

/** Objects that exist once per process. Functions receive them as arguments, never by import. */
export interface Dependencies {
  readonly config: Config;
  readonly log: Logger;
  readonly now: () => Date;
  /** Database of all short queries. */
  readonly db: Database;
  /** Pool of short queries of exports, on the database that exports read. */
  readonly exportPool: Pool;
  /**
   * Pool of exports of snapshots that are not rendered. Each holds a connection while its reader is
   * slow.
   */
  readonly sessionPool: Pool;
  readonly renderer: Renderer;
  /** Turns of short requests, so that a burst of one environment does not delay others. */
  readonly requestTurns: RequestTurns;
  readonly downloadLimit: ConcurrencyLimit;
  /** Limits the downloads that hold a connection of `sessionPool`. */
  readonly sessionLimit: ConcurrencyLimit;
  /** Limits the conversions to Parquet of downloads and runs. */
  readonly parquetPlaces: ParquetPlaces;
  /** Time in ms without a byte sent after which a download is ended. */
  readonly downloadStallMs: number;
  /** Pool of ingests. Each holds a connection while its body arrives. */
  readonly ingestPool: Pool;
  readonly ingestLimit: ConcurrencyLimit;
  /** Checks of buckets and webhooks, whose endpoints may answer slowly. */
  readonly checkPlaces: CheckPlaces;
  readonly linkTokens: LinkTokens;
  /** Verifier of access tokens of the identity provider; null if none is configured. */
  readonly userTokens: UserTokens | null;
  /** Job queue. Every process enqueues jobs, but only workers execute them. */
  readonly jobs: PgBoss;
  /**
   * Pools of runs. They are separate, so that runs and slow downloads do not wait for each other.
   */
  readonly runSource: ExportSource;
  /** Limits what slow storages may hold of this process. */
  readonly slowLane: SlowLane;
  /** Rules for the endpoints of customers that the service may connect to. */
  readonly clientEnvironment: ClientEnvironment;
  readonly pools: Readonly<
    Record<'api' | 'export' | 'session' | 'render' | 'ingest' | 'run' | 'jobs', Pool>
  >;
  readonly metrics: PrometheusMetrics;
  /** True once the process has begun to shut down. */
  isStopping: boolean;
  /** Closes the pools in reverse order of creation. */
  close(): Promise<void>;
}

/**
 * Concurrency limits. A process opens at most the connections of the API, of exports and of jobs.
 * Each session, ingest and run takes one more, and each rendering takes two.
 */
const limits = {
  apiConnections: 10,
  exportConnections: 10,
  sessions: 16,
  sessionsPerEnvironment: 8,
  downloads: 256,
  downloadsPerEnvironment: 32,
  ingests: 4,
  ingestsPerEnvironment: 2,
  jobConnections: 4,
} as const;

/**
 * Turns of short requests. An environment has at most two checks of endpoints at once. Each keeps a
 * turn for up to 20 s, or 40 s with a role.
 */
export const requestTurnsOptions = { perGroup: 6, waiting: 256, waitMs: 10_000 } as const;

/**
 * Places for checks of buckets and webhooks. A check of an endpoint that does not answer takes 12
 * to 20 s, so two of them make an environment slow for ten minutes. The slow endpoints of four
 * environments hold all places for at most 20 s in ten minutes.
 */
export const checkPlacesOptions = {
  total: 8,
  perEnvironment: 2,
  slowPlaces: 2,
  waitMs: 2_000,
  freeMs: 1_500,
  slowMs: 15_000,
  rememberMs: 10 * 60_000,
} as const;

/**
 * Longest time of a statement of the API in milliseconds. Ingests and unrendered exports set their
 * own.
 */
const statementTimeoutMs = 30_000;

export function createDependencies(
  config: Config,
  log: Logger,
  now: () => Date = () => new Date(),
): Dependencies {
  const pool = (name: string, maxConnections: number, url = config.databaseUrl) =>
    createPool({
      url,
      applicationName: `warehouse-export ${name}`,
      maxConnections,
      statementTimeoutMs,
      onIdleError: error => log.warn({ err: error, pool: name }, 'idle database connection lost'),
    });
  const pools = {
    api: pool('api', limits.apiConnections),
    export: pool('export', limits.exportConnections, config.snapshotDatabaseUrl),
    session: pool('session', limits.sessions, config.snapshotDatabaseUrl),
    render: pool('render', 2 * renderingsAtOnce),
    ingest: pool('ingest', limits.ingests),
    run: pool('run', runsAtOnce, config.snapshotDatabaseUrl),
    jobs: pool('jobs', limits.jobConnections),
  };
  const db = createKysely(pools.api);
  const downloadLimit = createConcurrencyLimit({
    total: limits.downloads,
    perEnvironment: limits.downloadsPerEnvironment,
    code: 'too_many_downloads',
    what: 'downloads',
  });
  const sessionLimit = createConcurrencyLimit({
    total: limits.sessions,
    perEnvironment: limits.sessionsPerEnvironment,
    code: 'too_many_downloads',
    what: 'downloads of snapshots that are not rendered',
  });
  const ingestLimit = createConcurrencyLimit({
    total: limits.ingests,
    perEnvironment: limits.ingestsPerEnvironment,
    code: 'rate_limited',
    what: 'ingests',
  });
  const roles = config.roles && createRoles(config.roles);
  const metrics = createPrometheusMetrics({
    pools,
    downloadLimit,
    ingestLimit,
    runErrorCodes,
    queueState: () => selectQueueState(db, now()),
  });
  return {
    config,
    log,
    now,
    db,
    exportPool: pools.export,
    sessionPool: pools.session,
    renderer: createRenderer({
      pool: pools.render,
      metrics,
      onRendered: checkRedeliveriesOf,
    }),
    requestTurns: createRequestTurns({ ...requestTurnsOptions, now: () => performance.now() }),
    downloadLimit,
    sessionLimit,
    parquetPlaces: createParquetPlaces(parquetPlacesOptions),
    downloadStallMs: stallTimeoutMs,
    ingestPool: pools.ingest,
    ingestLimit,
    checkPlaces: createCheckPlaces({ ...checkPlacesOptions, now: () => performance.now() }),
    slowLane: createSlowLane({ ...slowLaneOptions, now: () => performance.now() }),
    linkTokens: createLinkTokens(config.encryptionKeys, config.adminToken),
    userTokens:
      config.jwt &&
      createUserTokens(
        config.jwt,
        createIssuerKeys(config.jwt.jwksUrl, {
          now,
          onError: error => log.warn({ err: error }, 'identity provider keys unavailable'),
        }),
      ),
    jobs: createJobQueue(pools.jobs, error => log.warn({ err: error }, 'job queue error')),
    runSource: { exportPool: pools.run, sessionPool: pools.run, sessionLimit: null },
    clientEnvironment: { allowlist: parseEndpointAllowlist(config.s3EndpointAllowlist), roles },
    pools,
    metrics,
    isStopping: false,
    async close() {
      roles?.destroy();
      await pools.jobs.end();
      await pools.run.end();
      await pools.ingest.end();
      await pools.render.end();
      await pools.session.end();
      await pools.export.end();
      await db.destroy();
    },
  };
}
