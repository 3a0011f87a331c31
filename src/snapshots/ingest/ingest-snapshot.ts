import { pipeline } from 'node:stream/promises';
import type { Pool, PoolClient } from 'pg';
import { DatabaseError } from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import { inStep } from '../../observability/tracing.ts';
import { AppError, notFound } from '../../shared/errors.ts';
import { dayLockName, partitionName, snapshotLockName } from '../partitions.sql.ts';
import { matchHeader } from './match-header.ts';
import { openCsv } from './open-csv.ts';
import { createPlainCheck } from './plain-values.ts';
import { type RowFault, snapshotInvalid } from './snapshot-invalid.ts';
import * as stagingSql from './staging.sql.ts';

export interface LoadedSnapshot {
  readonly date: string;
  readonly rowCount: number;
  readonly completedAt: Date;
  /** False when it replaced one. */
  readonly created: boolean;
}

interface LoadRequest {
  readonly environmentId: string;
  /** `YYYY-MM-DD` */
  readonly date: string;
  /** The CSV, of any size. */
  readonly body: AsyncIterable<Buffer>;
  /** Ends the load at once; nothing has changed then. */
  readonly signal: AbortSignal;
  readonly now: () => Date;
  /** Work in the transaction of the ingest, right before its commit. */
  readonly beforeCommit: (client: PoolClient, snapshot: RegisteredSnapshot) => Promise<void>;
}

export interface RegisteredSnapshot {
  readonly environmentId: string;
  readonly date: string;
  readonly version: string;
  readonly rowCount: number;
}

/**
 * Replaces the snapshot of one date, whole or not at all: everything happens in one transaction, which readers see
 * the end of. Memory stays flat: the body is streamed into the database and checked there.
 * @throws AppError `snapshot_invalid`, `conflict` while the same snapshot is being loaded, `not_found`; or what the
 *   body throws
 */
export async function loadSnapshot(pool: Pool, request: LoadRequest): Promise<LoadedSnapshot> {
  const facts = { 'whx.environment.id': request.environmentId, 'whx.snapshot.date': request.date };
  return await inStep('load', facts, async step => {
    const loaded = await loadOver(pool, request);
    step.add({ 'whx.rows': loaded.rowCount });
    return loaded;
  });
}

async function loadOver(pool: Pool, request: LoadRequest): Promise<LoadedSnapshot> {
  const client = await pool.connect();
  let released = false;
  const release = (broken?: Error) => {
    if (!released) client.release(broken);
    released = true;
  };
  // Closes the socket, also under a statement that may run for long; Postgres rolls back.
  const breakOff = () => release(new Error('The load was aborted.'));
  request.signal.addEventListener('abort', breakOff, { once: true });
  try {
    request.signal.throwIfAborted();
    return await loadWith(client, request);
  } catch (error) {
    if (!released) await client.query('rollback').catch(release);
    throw error;
  } finally {
    request.signal.removeEventListener('abort', breakOff);
    release();
  }
}

async function loadWith(client: PoolClient, request: LoadRequest): Promise<LoadedSnapshot> {
  const { environmentId, date } = request;
  // In a transaction of its own, so that what it locks is free again before the body is read.
  await client.query(stagingSql.ensurePartition, [date]);
  await client.query(stagingSql.beginLoad);
  await client.query(stagingSql.shareDay, [dayLockName(date)]);
  const partition = await client.query<{ there: boolean }>(stagingSql.isPartitionThere, [
    partitionName(date),
  ]);
  if (partition.rows[0]?.there !== true) {
    // The old and empty day was removed between the two.
    await client.query('rollback');
    return await loadWith(client, request);
  }
  const lock = await client.query<{ locked: boolean }>(stagingSql.tryLockSnapshot, [
    snapshotLockName(environmentId, date),
  ]);
  if (lock.rows[0]?.locked !== true) {
    throw new AppError('conflict', `The snapshot of ${date} is being loaded by another request.`);
  }

  const csv = await openCsv(request.body);
  const fields = matchHeader(csv.header);
  await client.query(stagingSql.createStaging(fields));
  const copy = client.query(copyFrom(stagingSql.copyIntoStaging(fields)));
  const check = createPlainCheck(fields);
  await pipeline(csv.records(check.inspectors), copy, { signal: request.signal });

  const lockedEnvironment = await client.query(stagingSql.lockEnvironment, [environmentId]);
  if (lockedEnvironment.rowCount === 0) throw notFound('environment');
  await client.query(stagingSql.deleteRows, [environmentId, date]);
  const move = check.isPlain() ? stagingSql.movePlainRows : stagingSql.moveAcceptedRows;
  await moveRows(client, request, move, copy.rowCount);

  const completedAt = request.now();
  const { rows } = await client.query<Registered>(stagingSql.registerSnapshot, [
    environmentId,
    date,
    copy.rowCount,
    completedAt,
  ]);
  const { version, created } = rows[0] as Registered;
  await request.beforeCommit(client, { environmentId, date, version, rowCount: copy.rowCount });
  await client.query('commit');
  return { date, rowCount: copy.rowCount, completedAt, created };
}

interface Registered {
  readonly version: string;
  readonly created: boolean;
}

/** @throws AppError `snapshot_invalid` that names the rows, unless every staged row could be moved */
async function moveRows(
  client: PoolClient,
  request: LoadRequest,
  move: string,
  staged: number,
): Promise<void> {
  await client.query('savepoint before_rows');
  const moved = await client
    .query(move, [request.environmentId, request.date])
    .catch(async (error: unknown) => {
      if (!isFaultOfARow(error)) throw error;
      await client.query('rollback to savepoint before_rows');
      return null;
    });
  if (moved?.rowCount === staged) return;

  const { rows } = await client.query<RowFault & { total: number }>(stagingSql.findFaults);
  const [first] = rows;
  if (first === undefined)
    throw new Error('The rows were refused, but none is at fault: the rules disagree.');
  throw snapshotInvalid(
    rows.map(({ row, column, message }) => ({ row, column, message })),
    first.total,
  );
}

/** Data exceptions and constraint violations, by class: https://www.postgresql.org/docs/current/errcodes-appendix.html */
function isFaultOfARow(error: unknown): boolean {
  return error instanceof DatabaseError && /^(22|23)/.test(error.code ?? '');
}
