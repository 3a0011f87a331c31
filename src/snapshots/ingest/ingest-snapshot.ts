import { pipeline } from 'node:stream/promises';
import { DatabaseError, type Pool, type PoolClient } from 'pg';
import type { PgBoss } from 'pg-boss';
import { from as copyFrom } from 'pg-copy-streams';
import { type Actor, recordChange } from '../../audit/audit-log-repository.ts';
import { inTransaction } from '../../db/borrow.ts';
import { createKyselyOn } from '../../db/connect.ts';
import { holdDay, partitionName, snapshotLockName } from '../../db/snapshot-partitions.sql.ts';
import { recordUndatedChanges } from '../../db/undated-changes.sql.ts';
import type { Caller } from '../../environments/auth/access.ts';
import { recheckAccess } from '../../environments/auth/recheck-access.sql.ts';
import type { Environment } from '../../environments/environments-repository.ts';
import type { StreamedBody } from '../../http/streamed-body.ts';
import { withSpan } from '../../observability/tracing.ts';
import { snapshotInUse } from '../../shared/errors.ts';
import type { Snapshot } from '../registry-repository.ts';
import { enqueueRendering } from '../render/render-queue.sql.ts';
import { createRowReader, type RowReader } from './read-rows.ts';

export interface IngestDependencies {
  readonly ingestPool: Pool;
  readonly jobs: PgBoss;
  readonly now: () => Date;
}

export interface IngestRequest {
  readonly environment: Environment;
  /** `YYYY-MM-DD` */
  readonly date: string;
  /** CSV. Its signal aborts the ingest at once, without any change. */
  readonly body: Pick<StreamedBody, 'pieces' | 'signal'>;
  /** Number of rows that the sender announced; null if none. */
  readonly announcedRows: number | null;
  readonly caller: Caller;
  readonly actor: Actor;
}

export interface IngestedSnapshot extends Omit<Snapshot, 'renderedAt'> {
  /** False if it replaced an earlier version. */
  readonly created: boolean;
}

/**
 * Replaces the snapshot of one date in one transaction. Readers see the old rows or the new ones.
 * Valid rows go straight into the partition of the day. After the first invalid field, the rest of
 * the body is only validated. Memory use does not depend on the length of the body.
 *
 * @throws AppError `snapshot_invalid`, `conflict` during another ingest of the same snapshot, what
 *   the body throws, and what `recheckAccess` throws before the commit
 */
export async function ingestSnapshot(
  dependencies: IngestDependencies,
  request: IngestRequest,
): Promise<IngestedSnapshot> {
  const { environment, date, body } = request;
  const attributes = { 'whx.environment.id': environment.id, 'whx.snapshot.date': date };
  return await withSpan('ingest', attributes, async span => {
    const reader = createRowReader(environment.id, date);
    const pieces = reader.read(body.pieces, request.announcedRows);
    // The header is read before a connection, a lock or a transaction is taken.
    while (reader.columnNames.length === 0 && (await pieces.next()).done !== true);
    const ingested = await inTransaction(dependencies.ingestPool, body.signal, async client => {
      await beginLocked(client, environment.id, date);
      await client.query(
        'delete from snapshot_rows where environment_id = $1 and snapshot_date = $2::date',
        [environment.id, date],
      );
      const rowCount = await copyValidRows(client, date, reader, pieces);
      reader.errors.throwIfAny();
      if (rowCount !== reader.rowCount)
        throw new Error(`Postgres stored ${rowCount} rows of ${reader.rowCount}.`);
      return await register(dependencies, client, request, rowCount);
    });
    span.add({ 'whx.rows': ingested.rowCount });
    return ingested;
  });
}

/**
 * Begins the transaction and locks the day and the snapshot.
 * @throws AppError `conflict`
 */
async function beginLocked(client: PoolClient, environmentId: string, date: string): Promise<void> {
  for (;;) {
    // In a separate transaction, so that its locks end before the body is read.
    await client.query('select ensure_snapshot_partition($1::date)', [date]);
    await client.query('begin; set local statement_timeout = 0');
    await holdDay(client, date);
    const { rowCount } = await client.query(
      `select from pg_class join pg_inherits on inhrelid = pg_class.oid
       where relname = $1 and inhparent = 'snapshot_rows'::regclass and not inhdetachpending`,
      [partitionName(date)],
    );
    if (rowCount === 1) break;
    // Retention removed the empty partition in between.
    await client.query('rollback');
  }
  const { rows } = await client.query<{ locked: boolean }>(
    'select pg_try_advisory_xact_lock(hashtextextended($1, 0)) as locked',
    [snapshotLockName(environmentId, date)],
  );
  if (rows[0]?.locked !== true)
    throw snapshotInUse(`Another request ingests the snapshot of ${date}.`);
}

/**
 * Copies the rows before the first invalid field and reads the body to its end. Postgres detects
 * repeated keys among the copied rows; later rows are not compared.
 *
 * @returns the number of rows that Postgres stored
 */
async function copyValidRows(
  client: PoolClient,
  date: string,
  reader: RowReader,
  pieces: AsyncGenerator<void>,
): Promise<number> {
  const columns = ['environment_id', 'snapshot_date', ...reader.columnNames];
  const copy = client.query(
    copyFrom(`copy ${partitionName(date)} (${columns.join(', ')}) from stdin (format binary)`),
  );
  async function* encoded() {
    do yield* reader.takeEncoded(false);
    while (!copy.destroyed && (await pieces.next()).done !== true);
    yield* reader.takeEncoded(true);
  }
  try {
    await pipeline(encoded, copy);
    return copy.rowCount;
  } catch (error) {
    const row = repeatedRow(error, date);
    if (row === null) throw error;
    // Before the rest is read: the reader keeps no rows after an error.
    reader.errors.addFirst(row, 'Company ID', 'occurs with the same Feature ID in an earlier row');
    while ((await pieces.next()).done !== true);
    return 0;
  }
}

/**
 * Returns the number of the row that repeats an earlier key, if that ended a binary COPY, else
 * null. Postgres reports rows in that format, not lines. Only the number is read, because the
 * message may be in any language.
 */
function repeatedRow(error: unknown, date: string): number | null {
  if (!(error instanceof DatabaseError) || error.code !== '23505') return null;
  const [row] = /\d+/.exec((error.where ?? '').replace(partitionName(date), '')) ?? [];
  return row === undefined ? null : Number(row);
}

/**
 * Registers the new version, its audit line and its rendering if the caller is still authorized.
 */
async function register(
  { jobs, now }: IngestDependencies,
  client: PoolClient,
  { environment, date, caller, actor }: IngestRequest,
  rowCount: number,
): Promise<IngestedSnapshot> {
  const trx = createKyselyOn(client);
  await recheckAccess(trx, { environment, caller, scope: 'snapshots:write', now: now() });
  const completedAt = now().toISOString();
  const { rows } = await client.query<{
    version: string;
    created: boolean;
    /** Completion of the replaced version if it was within the same second or later. */
    undatedSince: Date | null;
  }>(
    `with replaced as (
       select completed_at from snapshots where environment_id = $1 and snapshot_date = $2::date
     )
     insert into snapshots (environment_id, snapshot_date, row_count, completed_at)
     values ($1, $2::date, $3, $4)
     on conflict (environment_id, snapshot_date) do update
       set version = default, row_count = excluded.row_count, completed_at = excluded.completed_at
     returning version, (xmax = 0) as created,
       (select completed_at from replaced
        where date_trunc('second', completed_at) >= date_trunc('second', $4::timestamptz))
         as "undatedSince"`,
    [environment.id, date, rowCount, completedAt],
  );
  const [registered] = rows;
  if (registered === undefined) throw new Error('The snapshot was not registered.');
  const { version, created, undatedSince } = registered;
  if (undatedSince !== null) await recordUndatedChanges(trx, [environment.id], undatedSince);
  await recordChange(trx, actor, {
    environmentId: environment.id,
    action: 'snapshot.ingested',
    targetId: date,
    details: { version, rows: rowCount },
  });
  await enqueueRendering(client, jobs, { environmentId: environment.id, date, version });
  return { date, version, rowCount, completedAt, created };
}
