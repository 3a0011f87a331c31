import { PassThrough } from 'node:stream';
import { text } from 'node:stream/consumers';
import { snapshotLockName } from '../../src/db/snapshot-partitions.sql.ts';
import { adoptionRow, ingestColumns, ingestLine } from './adoption-rows.ts';
import type { startTestApp } from './app.ts';
import { open } from './http-client.ts';
import { testAdminToken } from './secrets.ts';
import { waitFor } from './wait-for.ts';
import { writeWideSnapshot } from './wide-snapshot.ts';

type App = Awaited<ReturnType<typeof startTestApp>>;

/** Number of bytes that an ingest reads before it takes locks. */
const beforeLocks = 20_000;

/** Starts an ingest of one row that holds the lock of its snapshot until `end` is called. */
export async function slowIngest(
  app: App,
  environmentId: string,
  day: string,
  token = testAdminToken,
) {
  const body = new PassThrough();
  const row = adoptionRow({ companyName: 'slow', featureName: 'x'.repeat(beforeLocks) });
  body.write(`${ingestColumns.join(',')}\n${ingestLine(row)}`);
  const answer = app.ingest(environmentId, day, body, { authorization: `Bearer ${token}` });
  // A test that fails before it awaits the answer reports its failure itself.
  answer.catch(() => {});
  // The ingest takes and releases other advisory locks before this one.
  await waitFor('an ingest that holds its lock', async () => {
    const { rowCount } = await app.database.pool.query(
      `select from pg_locks
       where locktype = 'advisory' and granted and database = (select oid from pg_database where datname = current_database())
         and (classid::bigint << 32) | objid::bigint = hashtextextended($1, 0)`,
      [snapshotLockName(environmentId, day)],
    );
    return rowCount === 1;
  });
  return {
    async end(): Promise<number> {
      body.end();
      return (await answer).status;
    },
  };
}

/** Starts a large export whose reader stops in the middle, so that its query waits. */
export async function slowExport(app: App, environmentId: string) {
  const { pool } = app.database;
  await writeWideSnapshot(pool, {
    environmentId,
    date: '2026-02-27',
    rows: 800,
    nameBytes: 25_000,
  });
  await writeWideSnapshot(pool, { environmentId, date: '2026-02-28', rows: 10, nameBytes: 10 });
  const reader = await open(
    `${app.origin}/v1/environments/${environmentId}/exports/30-days-daily.csv`,
    {
      headers: { authorization: `Bearer ${testAdminToken}` },
    },
  );
  reader.pause();
  await waitFor('an export that waits for its reader', async () => {
    const { rowCount } = await pool.query(
      `select from pg_stat_activity where datname = current_database() and wait_event = 'ClientWrite'`,
    );
    return rowCount === 1;
  });
  return {
    headers: reader.headers,
    /**
     * Reads the rest.
     *
     * @returns the whole file
     * @throws if the connection breaks
     */
    end: () => text(reader),
  };
}
