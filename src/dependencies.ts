import type { Kysely } from 'kysely';
import type { Pool } from 'pg';
import type { Logger } from 'pino';
import type { Config } from './config.ts';
import { createKysely, createPool } from './db/connect.ts';
import type { Tables } from './db/tables.ts';
import { createLinkTokens, type LinkTokens } from './exports/link-tokens.ts';
import { createSlots, type Slots } from './http/slots.ts';

/** All that is made once for the process. Nothing here is reached by import: it is handed on as an argument. */
export interface Dependencies {
  readonly config: Config;
  readonly log: Logger;
  readonly now: () => Date;
  /** For everything short. */
  readonly db: Kysely<Tables>;
  /** A download holds a connection for as long as its reader is slow: they have a pool of their own. */
  readonly exportPool: Pool;
  readonly downloadSlots: Slots;
  /** The same for loads. */
  readonly loadPool: Pool;
  readonly loadSlots: Slots;
  readonly linkTokens: LinkTokens;
  /** By name, for the metrics. */
  readonly pools: Readonly<Record<'api' | 'export' | 'load', Pool>>;
  /** True from the first signal to stop. */
  isStopping: boolean;
  /** Closes in reverse order of making. */
  close(): Promise<void>;
}

/** How much at once. A process takes no more than the sum of these connections, and a few for jobs. */
const limits = {
  apiConnections: 10,
  downloads: 16,
  downloadsPerEnvironment: 8,
  loads: 4,
  loadsPerEnvironment: 2,
} as const;

/** The longest that a statement of the API may take; downloads and loads set their own. */
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
      onIdleError: error => log.warn({ err: error, pool: name }, 'idle database connection broke'),
    });
  const pools = {
    api: pool('api', limits.apiConnections),
    // Two more than downloads: the list of exports and HEAD ask here as well.
    export: pool('export', limits.downloads + 2, config.snapshotDatabaseUrl),
    load: pool('load', limits.loads),
  };
  const db = createKysely(pools.api);
  return {
    config,
    log,
    now,
    db,
    exportPool: pools.export,
    downloadSlots: createSlots({
      total: limits.downloads,
      perEnvironment: limits.downloadsPerEnvironment,
      code: 'too_many_downloads',
      what: 'downloads',
    }),
    loadPool: pools.load,
    loadSlots: createSlots({
      total: limits.loads,
      perEnvironment: limits.loadsPerEnvironment,
      code: 'rate_limited',
      what: 'snapshot loads',
    }),
    linkTokens: createLinkTokens(config.encryptionKeys, config.adminToken),
    pools,
    isStopping: false,
    async close() {
      await pools.load.end();
      await pools.export.end();
      await db.destroy();
    },
  };
}
