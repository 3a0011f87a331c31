import pLimit from 'p-limit';
import type { Pool, PoolClient } from 'pg';
import { borrow } from '../../db/borrow.ts';
import { isOrphaned } from '../../db/errors.ts';
import { attachDetachedDay, holdDay } from '../../db/snapshot-partitions.sql.ts';
import type { Metrics, RenderingOutcome } from '../../observability/metrics.ts';
import { withSpan } from '../../observability/tracing.ts';
import { combineCrcs } from '../../shared/combine-crcs.ts';
import { chunkChecksum, makeChunks, renderer } from './chunks.ts';
import { copyRows } from './copy-rows.sql.ts';

export interface SnapshotKey {
  readonly environmentId: string;
  /** `YYYY-MM-DD` */
  readonly date: string;
}

export interface Renderer {
  /**
   * Renders the current version of a snapshot unless it is rendered. Waits for another process that
   * is rendering it.
   * @throws RowCountError, the reason of the signal, or the driver's error
   */
  render(snapshot: SnapshotKey, signal: AbortSignal): Promise<RenderingOutcome>;
}

interface RendererDependencies {
  /**
   * Pool of the main database. Each rendering takes two connections, one to read and one to write.
   */
  readonly pool: Pool;
  readonly metrics: Pick<Metrics, 'renderingEnded'>;
  /** Called in the transaction that marks a version as rendered, just before its commit. */
  readonly onRendered?: (client: PoolClient, environmentId: string) => Promise<void>;
}

/** Maximum number of concurrent renderings in this process. */
export const renderingsAtOnce = 2;

const findCurrent = `
  select snapshot.version, snapshot.row_count as "rowCount",
    rendered.version is not null as "isRendered"
  from snapshots as snapshot
  left join rendered_snapshots as rendered
    on rendered.environment_id = snapshot.environment_id and rendered.version = snapshot.version
  where snapshot.environment_id = $1 and snapshot.snapshot_date = $2::date`;

interface CurrentVersion {
  readonly version: string;
  readonly rowCount: number;
  readonly isRendered: boolean;
}

/** No timeouts, because the transaction is idle while the other connection sorts the rows. */
const beginWriting = `
  begin;
  set local statement_timeout = 0;
  set local idle_in_transaction_session_timeout = 0`;

const insertChunk = `
  insert into snapshot_chunks (environment_id, version, index, plain_bytes, checksum, deflated)
  values ($1, $2, $3, $4, $5, $6)`;

/** Locks the environment first, in the same order as ingests and deletions. */
const lockEnvironment = 'select from environments where id = $1 for key share';

/** Inserts nothing if the version is no longer current. Blocks a replacement until the commit. */
const insertRendered = `
  insert into rendered_snapshots (environment_id, version, snapshot_date,
    plain_bytes, deflated_bytes, chunk_count, crc32, renderer)
  select environment_id, version, snapshot_date, $4, $5, $6, $7, $8
  from snapshots
  where environment_id = $1 and snapshot_date = $2::date and version = $3
  for share`;

export function createRenderer({ pool, metrics, onRendered }: RendererDependencies): Renderer {
  const limit = pLimit(renderingsAtOnce);

  async function render(snapshot: SnapshotKey, signal: AbortSignal): Promise<RenderingOutcome> {
    const current = await borrow(pool, signal, client => readCurrent(client, snapshot));
    if (current === null) return 'superseded';
    if (current.isRendered) return 'present';
    const startedAt = performance.now();
    let outcome: RenderingOutcome | 'failed' = 'failed';
    let bytes = 0;
    try {
      const attributes = {
        'whx.environment.id': snapshot.environmentId,
        'whx.snapshot.date': snapshot.date,
      };
      ({ outcome, bytes } = await withSpan('render', attributes, () =>
        borrow(pool, signal, writer =>
          borrow(pool, signal, reader => renderWith(writer, reader, snapshot, onRendered)),
        ),
      ));
      return outcome;
    } finally {
      const seconds = (performance.now() - startedAt) / 1000;
      metrics.renderingEnded({ outcome, bytes, seconds });
    }
  }

  return { render: (snapshot, signal) => limit(() => render(snapshot, signal)) };
}

async function readCurrent(
  client: PoolClient,
  { environmentId, date }: SnapshotKey,
): Promise<CurrentVersion | null> {
  const { rows } = await client.query<CurrentVersion>(findCurrent, [environmentId, date]);
  return rows[0] ?? null;
}

async function renderWith(
  writer: PoolClient,
  reader: PoolClient,
  snapshot: SnapshotKey,
  onRendered: RendererDependencies['onRendered'],
): Promise<{ outcome: RenderingOutcome; bytes: number }> {
  const { environmentId, date } = snapshot;
  await writer.query(beginWriting);
  // While retention detaches the day's partition, its rows are not visible.
  await holdDay(writer, date);
  await reader.query(attachDetachedDay, [date]);
  await writer.query('select pg_advisory_xact_lock(hashtextextended($1, 0))', [
    `warehouse-export render ${environmentId} ${date}`,
  ]);
  await reader.query(`
    begin isolation level repeatable read read only;
    set local statement_timeout = 0`);
  const current = await readCurrent(reader, snapshot);
  if (current === null || current.isRendered) {
    await reader.query('rollback');
    await writer.query('rollback');
    return { outcome: current === null ? 'superseded' : 'present', bytes: 0 };
  }
  const { version, rowCount } = current;
  const rows = copyRows(reader, { environmentId, snapshotDate: date, shownDate: date, rowCount });
  let [plainBytes, deflatedBytes, chunkCount, crc] = [0, 0, 0, 0];
  for await (const chunk of makeChunks(rows)) {
    const { deflated } = chunk;
    const checksum = chunkChecksum(version, chunkCount, deflated);
    const values = [environmentId, version, chunkCount, chunk.plainBytes, checksum, deflated];
    await writer.query(insertChunk, values);
    crc = combineCrcs(crc, chunk.plainCrc32, chunk.plainBytes);
    plainBytes += chunk.plainBytes;
    deflatedBytes += deflated.length;
    chunkCount += 1;
  }
  await reader.query('commit');
  await writer.query(lockEnvironment, [environmentId]);
  const totals = [plainBytes, deflatedBytes, chunkCount, crc, renderer];
  const inserted = await writer
    .query(insertRendered, [environmentId, date, version, ...totals])
    .catch((error: unknown) => {
      if (isOrphaned(error)) return { rowCount: 0 };
      throw error;
    });
  if (inserted.rowCount === 0) {
    await writer.query('rollback');
    return { outcome: 'superseded', bytes: 0 };
  }
  await onRendered?.(writer, environmentId);
  await writer.query('commit');
  return { outcome: 'rendered', bytes: plainBytes };
}
