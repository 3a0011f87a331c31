import { tidyUp } from '../../src/retention/tidy-up.ts';
import { startTestApp, testNow } from './app.ts';
import { fillSnapshot } from './fill-snapshot.ts';
import { emptyTables } from './postgres.ts';
import { hashRenderedSnapshots, renderSnapshots } from './render-snapshots.ts';

export const retentionSettings = { snapshots: 'needed', runDays: 90, auditDays: 400 } as const;
const never = new AbortController().signal;

/** Starts a service with two environments. Returns functions that read its tables. */
export async function startWithSnapshots(t: Parameters<typeof startTestApp>[0]) {
  const app = await startTestApp(t);
  const { pool } = app.database;
  const list = async (query: string) =>
    (await pool.query(query)).rows.map(row => Object.values(row).join(' '));
  /** Removes all snapshots and runs, so that tests can share one service. */
  async function reset(): Promise<void> {
    await emptyTables(pool);
    const { rows } = await pool.query<{ name: string }>(
      `select relname as name from pg_class where relname ~ '^snapshot_rows_[0-9]+$' and relkind = 'r'`,
    );
    if (rows.length > 0) await pool.query(`drop table ${rows.map(({ name }) => name).join()}`);
    await app.putEnvironment('acme', 'pro');
    await app.putEnvironment('other', 'pro');
  }
  return {
    app,
    pool,
    reset,
    fill: async (environmentId: string, days: readonly string[]) => {
      for (const day of days) await fillSnapshot(pool, environmentId, day, 3);
    },
    tidy: (now = testNow, timeoutMs?: number) =>
      tidyUp(app.dependencies.db, retentionSettings, new Date(now), never, timeoutMs),
    render: (at?: Date) => renderSnapshots(pool, at),
    rendered: () => hashRenderedSnapshots(pool),
    registered: () =>
      list('select environment_id, snapshot_date::text from snapshots order by 1, 2'),
    stored: () =>
      list('select distinct environment_id, snapshot_date::text from snapshot_rows order by 1, 2'),
    partitions: () =>
      list(`select right(inhrelid::regclass::text, 8) as day from pg_inherits
            where inhparent = 'snapshot_rows'::regclass and not inhdetachpending order by 1`),
    tables: () =>
      list(
        `select right(relname, 8) from pg_class where relname ~ '^snapshot_rows_[0-9]+$' order by 1`,
      ),
    audited: () =>
      list(
        `select environment_id, target_id, actor_kind, actor_id from audit_log where action = 'snapshot.deleted' order by 1, 2`,
      ),
  };
}
