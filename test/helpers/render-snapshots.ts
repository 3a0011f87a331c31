import { createHash } from 'node:crypto';
import { buffer } from 'node:stream/consumers';
import { constants, crc32, deflateRawSync, inflateRawSync } from 'node:zlib';
import type { Pool } from 'pg';
import { to as copyTo } from 'pg-copy-streams';
import { copyRows } from '../../src/exports/select-rows.ts';
import { beginInUtc } from '../../src/snapshots/instants.ts';
import { testNow } from './app.ts';

interface Registered {
  environmentId: string;
  date: string;
  version: string;
}

/** So long ago that no transaction reads the rows any more. */
const longAgo = new Date(Date.parse(testNow) - 2 * 24 * 60 * 60 * 1000);

/** Renders every snapshot that is not rendered yet, as one chunk each. */
export async function renderSnapshots(pool: Pool, renderedAt = longAgo): Promise<void> {
  const client = await pool.connect();
  try {
    const { rows } = await client.query<Registered>(
      `select environment_id as "environmentId", snapshot_date::text as date, version
       from snapshots
       where not exists (
         select from rendered_snapshots as rendered
         where rendered.environment_id = snapshots.environment_id
           and rendered.version = snapshots.version)`,
    );
    for (const { environmentId, date, version } of rows) {
      await client.query(beginInUtc());
      const plain = await buffer(client.query(copyTo(copyRows(environmentId, date, date))));
      const deflated = deflateRawSync(plain, { level: 1, finishFlush: constants.Z_SYNC_FLUSH });
      await client.query(
        `insert into rendered_snapshots
           (environment_id, version, snapshot_date, plain_bytes, deflated_bytes, rendered_at)
         values ($1, $2, $3, $4, $5, $6)`,
        [environmentId, version, date, plain.length, deflated.length, renderedAt],
      );
      await client.query(`insert into snapshot_chunks values ($1, $2, 0, $3, $4, $5)`, [
        environmentId,
        version,
        plain.length,
        crc32(plain),
        deflated,
      ]);
      await client.query('commit');
    }
  } finally {
    client.release();
  }
}

/** Returns a line with a hash of the rendered rows for each registered snapshot that is rendered. */
export async function hashRenderedSnapshots(pool: Pool): Promise<string[]> {
  const { rows } = await pool.query<Registered & { chunks: Buffer[] }>(
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
