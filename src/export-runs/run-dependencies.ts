import type { PgBoss } from 'pg-boss';
import type { Logger } from 'pino';
import type { EncryptionKey } from '../config/config.ts';
import type { Database } from '../db/database.ts';
import type { RunJob } from '../db/job-queue.ts';
import type { ClientEnvironment } from '../destinations/s3/client.ts';
import type { ExportSource } from '../exports/open-export.ts';
import type { ParquetPlaces } from '../exports/parquet/places.ts';
import type { Metrics } from '../observability/metrics.ts';
import type { Renderer } from '../snapshots/render/render-snapshot.ts';
import type { SlowLane } from './slow-lane.ts';

export interface RunDependencies {
  readonly db: Database;
  readonly jobs: PgBoss;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly now: () => Date;
  readonly encryptionKeys: readonly [EncryptionKey, ...EncryptionKey[]];
  readonly clientEnvironment: ClientEnvironment;
  /** Pools from which runs read. */
  readonly runSource: ExportSource;
  readonly parquetPlaces: ParquetPlaces;
  readonly renderer: Renderer;
  readonly slowLane: SlowLane;
}

/** Job that this worker received from the queue. */
export interface ClaimedJob {
  readonly id: string;
  readonly data: RunJob;
  /** True if no attempt follows. */
  readonly isLast: boolean;
  /** Aborts when the queue has given the job to another worker. */
  readonly signal: AbortSignal;
}
