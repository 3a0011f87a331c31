import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Pool, PoolClient } from 'pg';
import { type Actor, recordChange } from '../../audit/audit-log.ts';
import { createKyselyOn } from '../../db/connect.ts';
import type { Database } from '../../db/database.ts';
import { withSpan } from '../../observability/tracing.ts';
import { AppError } from '../../shared/errors.ts';
import { dayLockName, partitionName, snapshotLockName } from '../partitions.sql.ts';
import { duplicateRow, startCopy } from './copy-rows.ts';
import * as ingestSql from './ingest.sql.ts';
import { createRowReader, type RowReader } from './read-rows.ts';

export interface IngestedSnapshot {
  readonly date: string;
  readonly version: string;
  readonly rowCount: number;
  readonly completedAt: Date;
  /** False if it replaced an earlier version. */
  readonly created: boolean;
}

export interface IngestRequest {
  readonly environmentId: string;
  /** `YYYY-MM-DD` */
  readonly date: string;
  /** CSV in pieces of at most 64 KiB. The first has at least 16 KiB, unless the body is shorter. */
  readonly body: AsyncIterable<Buffer>;
  /** Number of rows that the sender announced; null if none. */
  readonly announcedRows: number | null;
  /** Aborts the ingest at once, without any change. */
  readonly signal: AbortSignal;
  readonly actor: Actor;
  readonly now: () => Date;
  /**
   * Checks again before the commit that the caller is authorized.
   * @throws AppError
   */
  readonly recheck: (trx: Database) => Promise<void>;
  /** Called in the transaction, just before its commit. */
  readonly beforeCommit: (client: PoolClient, snapshot: RegisteredSnapshot) => Promise<void>;
}

export interface RegisteredSnapshot {
  readonly environmentId: string;
  readonly date: string;
  readonly version: string;
  readonly rowCount: number;
}

/** Longest time without a turn of the event loop, in milliseconds. */
const turnMs = 10;

/**
 * Replaces the snapshot of one date in one transaction. Readers see the old rows or the new ones.
 * Valid rows go straight into the partition of the day. After the first invalid field, the rest of
 * the body is only validated. Memory use does not depend on the length of the body.
 *
 * @throws AppError `snapshot_invalid`, `conflict` during another ingest of the same snapshot, and
 *   what the body and `recheck` throw
 */
export async function ingestSnapshot(
  pool: Pool,
  request: IngestRequest,
): Promise<IngestedSnapshot> {
  const attributes = {
    'whx.environment.id': request.environmentId,
    'whx.snapshot.date': request.date,
  };
  return await withSpan('ingest', attributes, async span => {
    const reader = createRowReader(request.environmentId, request.date);
    const pieces = readPieces(reader, request);
    // The header is read before a connection, a lock or a transaction is taken.
    while (!reader.hasHeader && (await pieces.next()).done !== true);
    const ingested = await inTransaction(pool, request.signal, client =>
      ingestWith(client, request, reader, pieces),
    );
    span.add({ 'whx.rows': ingested.rowCount });
    return ingested;
  });
}

/** Validates the body piece by piece and yields to other requests in between. */
async function* readPieces(reader: RowReader, request: IngestRequest): AsyncGenerator<void> {
  let turnStartedAt = performance.now();
  let isReadable = true;
  for await (const piece of request.body) {
    isReadable = reader.read(piece, false);
    if (!isReadable) break;
    yield;
    if (performance.now() - turnStartedAt > turnMs) {
      await nextTurn();
      turnStartedAt = performance.now();
    }
  }
  if (isReadable) reader.read(Buffer.alloc(0), true);
  const { announcedRows } = request;
  if (isReadable && announcedRows !== null && announcedRows !== reader.rowCount) {
    const message = `has ${reader.rowCount} rows where rowCount announces ${announcedRows}`;
    reader.errors.add(0, null, message);
  }
}

/**
 * Runs `work`, which begins a transaction, and commits it. An abort cannot interrupt the commit.
 */
async function inTransaction<T>(
  pool: Pool,
  signal: AbortSignal,
  work: (client: PoolClient) => Promise<T>,
): Promise<T> {
  const client = await pool.connect();
  let isReleased = false;
  const release = (broken?: Error) => {
    if (!isReleased) client.release(broken);
    isReleased = true;
  };
  // Closes the connection, also during a long statement. Postgres rolls the transaction back.
  const abort = () => release(new Error('The ingest was aborted.'));
  signal.addEventListener('abort', abort, { once: true });
  try {
    signal.throwIfAborted();
    const result = await work(client);
    signal.throwIfAborted();
    signal.removeEventListener('abort', abort);
    await client.query('commit');
    return result;
  } catch (error) {
    if (!isReleased) await client.query('rollback').catch(release);
    // The abort closed the connection. Its reason is more precise than the connection error.
    else signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener('abort', abort);
    release();
  }
}

async function ingestWith(
  client: PoolClient,
  request: IngestRequest,
  reader: RowReader,
  pieces: AsyncGenerator<void>,
): Promise<IngestedSnapshot> {
  const { environmentId, date, now, actor } = request;
  await beginLocked(client, environmentId, date);
  await client.query(ingestSql.deleteRows, [environmentId, date]);
  const stored = await copyValidRows(client, request, reader, pieces);
  reader.errors.throwIfAny();
  if (stored !== reader.rowCount)
    throw new Error(`Postgres stored ${stored} rows of ${reader.rowCount}.`);

  const trx = createKyselyOn(client);
  await request.recheck(trx);
  const completedAt = now();
  const values = [environmentId, date, stored, completedAt];
  const { rows } = await client.query<{ version: string; created: boolean }>(
    ingestSql.registerSnapshot,
    values,
  );
  const [registered] = rows;
  if (registered === undefined) throw new Error('The snapshot was not registered.');
  const { version, created } = registered;
  await recordChange(trx, actor, {
    environmentId,
    action: 'snapshot.ingested',
    targetId: date,
    details: { version, rows: stored },
  });
  await request.beforeCommit(client, { environmentId, date, version, rowCount: stored });
  return { date, version, rowCount: stored, completedAt, created };
}

/**
 * Begins the transaction and locks the day and the snapshot.
 * @throws AppError `conflict`
 */
async function beginLocked(client: PoolClient, environmentId: string, date: string): Promise<void> {
  for (;;) {
    // In a separate transaction, so that its locks end before the body is read.
    await client.query(ingestSql.ensurePartition, [date]);
    await client.query(ingestSql.beginIngest);
    await client.query(ingestSql.shareDay, [dayLockName(date)]);
    const { rows } = await client.query<{ attached: boolean }>(ingestSql.isPartitionAttached, [
      partitionName(date),
    ]);
    if (rows[0]?.attached === true) break;
    // Retention removed the empty partition in between.
    await client.query('rollback');
  }
  const { rows } = await client.query<{ locked: boolean }>(ingestSql.tryLockSnapshot, [
    snapshotLockName(environmentId, date),
  ]);
  if (rows[0]?.locked !== true)
    throw new AppError('conflict', `Another request ingests the snapshot of ${date}.`);
}

/**
 * Copies the rows before the first invalid field and reads the body to its end. Postgres detects
 * repeated keys among the copied rows; later rows are not compared.
 *
 * @returns the number of rows that Postgres stored
 */
async function copyValidRows(
  client: PoolClient,
  { date }: IngestRequest,
  reader: RowReader,
  pieces: AsyncGenerator<void>,
): Promise<number> {
  const copy = startCopy(client, ingestSql.copyRows(date, reader.columns));
  try {
    for (;;) {
      for (const bytes of reader.takeEncoded(false)) await copy.write(bytes);
      if (copy.error !== null && duplicateRow(copy.error, date) === null) throw copy.error;
      if ((await pieces.next()).done === true) break;
    }
    for (const bytes of reader.takeEncoded(true)) await copy.write(bytes);
    return await copy.end();
  } catch (error) {
    const row = duplicateRow(error, date);
    if (row !== null) {
      reader.errors.addFirst(
        row,
        'Company ID',
        'stands with the same Feature ID in an earlier row',
      );
      return 0;
    }
    copy.cancel();
    throw error;
  }
}
