import { createHash } from 'node:crypto';
import { constants, inflateRawSync } from 'node:zlib';
import type { Pool } from 'pg';
import { createPool } from '../../src/db/connect.ts';
import { createRenderer, type Renderer } from '../../src/snapshots/render/render-snapshot.ts';
import { type TestApp, testNow } from './app.ts';

const missing = `
  select environment_id as "environmentId", snapshot_date::text as date, version
  from snapshots
  where not exists (
    select from rendered_snapshots as rendered
    where rendered.environment_id = snapshots.environment_id
      and rendered.version = snapshots.version)
  order by snapshot_date, environment_id`;

interface Registered {
  readonly environmentId: string;
  readonly date: string;
  readonly version: string;
}

async function renderMissing(pool: Pool, renderer: Renderer): Promise<Registered[]> {
  const { rows } = await pool.query<Registered>(missing);
  for (const snapshot of rows) await renderer.render(snapshot, new AbortController().signal);
  return rows;
}

/** Renders all snapshots without a rendering, as the worker does. */
export async function renderAll(app: Pick<TestApp, 'dependencies'>): Promise<void> {
  await renderMissing(app.dependencies.pools.api, app.dependencies.renderer);
}

/** Time of renderings after which no transaction reads the rows any more. */
const longAgo = new Date(Date.parse(testNow) - 2 * 24 * 60 * 60 * 1000);

/**
 * Renders all snapshots without a rendering and without a service, and sets the time of the
 * renderings.
 */
export async function renderSnapshots(pool: Pool, renderedAt = longAgo): Promise<void> {
  const own = createPool({
    url: pool.options.connectionString ?? '',
    applicationName: 'test renderer',
    maxConnections: 4,
    statementTimeoutMs: 0,
    onIdleError: () => {},
  });
  try {
    const renderer = createRenderer({ pool: own, metrics: { renderingEnded: () => {} } });
    const rendered = await renderMissing(pool, renderer);
    await pool.query('update rendered_snapshots set rendered_at = $1 where version = any($2)', [
      renderedAt,
      rendered.map(({ version }) => version),
    ]);
  } finally {
    await own.end();
  }
}

/**
 * Returns a line with a hash of the rendered rows for each registered snapshot that is rendered.
 */
export async function hashRenderedSnapshots(pool: Pool): Promise<string[]> {
  const { rows } = await pool.query<Omit<Registered, 'version'> & { chunks: Buffer[] }>(
    `select environment_id as "environmentId", snapshot_date::text as date,
       array_agg(deflated order by index) as chunks
     from snapshots join snapshot_chunks using (environment_id, version)
     group by 1, 2 order by 1, 2`,
  );
  return rows.map(({ environmentId, date, chunks }) => {
    const plain = inflateRawSync(Buffer.concat(chunks), { finishFlush: constants.Z_SYNC_FLUSH });
    return `${environmentId} ${date} ${createHash('sha256').update(plain).digest('hex')}`;
  });
}
