import { createPool } from '../src/db/connect.ts';
import { createRenderer } from '../src/snapshots/render/render-snapshot.ts';
import type { Bench } from './bench.ts';
import { timed } from './measure.ts';

/**
 * Renders the day if it is not rendered yet.
 *
 * @returns seconds
 */
export async function renderDay(
  bench: Bench,
  environmentId = bench.environmentId,
): Promise<number> {
  const pool = createPool({
    url: bench.databaseUrl,
    applicationName: 'bench renderer',
    maxConnections: 4,
    statementTimeoutMs: 0,
    onIdleError: () => {},
  });
  try {
    const renderer = createRenderer({ pool, metrics: { renderingEnded: () => {} } });
    const { signal } = new AbortController();
    return await timed(() => renderer.render({ environmentId, date: bench.date }, signal));
  } finally {
    await pool.end();
  }
}

/** Deletes the rendering of the day, so that an export reads the rows. */
export async function forgetRendering(
  bench: Bench,
  environmentId = bench.environmentId,
): Promise<void> {
  await bench.pool.query('delete from rendered_snapshots where environment_id = $1', [
    environmentId,
  ]);
}

/** Returns the bytes on disk of the chunks and of the rows, indexes included. */
export async function sizesOnDisk(bench: Bench): Promise<{ chunks: number; rows: number }> {
  await bench.pool.query('vacuum full snapshot_chunks');
  const partition = `snapshot_rows_${bench.date.replaceAll('-', '')}`;
  const { rows } = await bench.pool.query<{ chunks: number; rows: number }>(
    `select pg_total_relation_size('snapshot_chunks') as chunks,
       pg_total_relation_size($1::regclass) as rows`,
    [partition],
  );
  return rows[0] ?? { chunks: Number.NaN, rows: Number.NaN };
}
