import { randomUUID } from 'node:crypto';
import { fromKysely } from 'pg-boss';
import { runQueue } from '../../src/db/job-queue.ts';
import type { Attempt } from '../../src/export-runs/attempts-repository.ts';
import * as outcomes from '../../src/export-runs/outcomes-repository.ts';
import type { startTestApp } from './app.ts';
import { emptyTables } from './postgres.ts';
import { registerSecret } from './secrets.ts';

/** Configuration error. */
export const denied = { code: 'write_denied', message: 'The access key may not write.' };
/** Another error. */
export const busy = { code: 'storage_unavailable', message: 'The storage is not available.' };
export const result = {
  rowCount: 1,
  bytes: 2,
  sha256: 'x',
  objectKey: 'k',
  snapshotVersion: '00000000-0000-4000-8000-000000000000',
  manifestKey: '_manifest/k.json',
};

/** Replaces all data by configs of `acme` whose runs end when the test says so. */
export async function startWithRuns(
  app: Awaited<ReturnType<typeof startTestApp>>,
  {
    url = 'https://hooks.example.com/' as string | null,
    configs = ['a', 'b'],
    since = '2026-01-01T12:00:00Z',
  } = {},
) {
  const { pool } = app.database;
  const { db, jobs } = app.dependencies;
  const save = async (
    failureWebhook: string | null,
    { plan = 'enterprise', ...more }: { plan?: string; webhookEvents?: readonly string[] } = {},
  ) => {
    const json = { name: 'acme', plan, failureWebhook, ...more };
    const saved = await app.call('/v1/environments/acme', { method: 'PUT', json });
    const made: string | undefined = saved.json.failureWebhookSecret;
    return made === undefined ? null : registerSecret(made);
  };
  await emptyTables(pool);
  const secret = await save(url);
  await pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key, endpoint,
       access_key_id, sealed_secret, compression, manifest, active_since, created_at, updated_at)
     select 'acme', id, 'Nightly', true, 'daily', 'custom', 'acme', 'auto', '', 'https://s3.example.com', 'id', 'sealed', 'none', false, at, at, at
     from unnest($1::text[]) as given (id), (values ($2::timestamptz)) as made (at)`,
    [configs, since],
  );
  let runs = 0;
  /**
   * Starts a run with a job that no worker takes. A run without a job would be requeued by a tick.
   *
   * @param slot null for a manual run
   */
  const begin = async (
    slot: string | null,
    configId = 'a',
    environmentId = 'acme',
  ): Promise<Attempt> => {
    runs += 1;
    const runId = `run-${runs}`;
    const jobId = randomUUID();
    const job = {
      id: jobId,
      data: { environmentId, configId, runId },
      startAfter: '2100-01-01T00:00:00Z',
    };
    await jobs.insert(runQueue, [job], { db: fromKysely(db) });
    await pool.query(
      `insert into export_runs (environment_id, config_id, id, trigger, slot, snapshot_date, state, attempts, created_at, job_id)
       values ($5, $1, $2, $3, $4, '2026-03-01', 'running', 1, now(), $6)`,
      [configId, runId, slot === null ? 'manual' : 'schedule', slot, environmentId, jobId],
    );
    return { environmentId, configId, runId, jobId, number: 1 };
  };
  const fail = (attempt: Attempt, now: string, error = denied) =>
    outcomes.recordFailure(db, jobs, attempt, error, new Date(now));
  const succeed = (attempt: Attempt, now: string) =>
    outcomes.recordSuccess(db, jobs, attempt, result, new Date(now));
  /** Returns the slot of a day of March. Its run ends an hour later. */
  const slotOf = (day: number) => new Date(Date.UTC(2026, 2, day)).toISOString();
  const failDay = async (day: number, error = denied) =>
    await fail(await begin(slotOf(day)), slotOf(day).replace('T00', 'T01'), error);
  const succeedDay = async (day: number) =>
    await succeed(await begin(slotOf(day)), slotOf(day).replace('T00', 'T01'));
  const events = async () => {
    const { rows } = await pool.query(
      `select config_id, type, day::text, data from webhook_events order by created_at, config_id, type`,
    );
    return rows.map(row => ({
      ...row,
      short: `${row.config_id} ${row.type.slice(7)} ${row.day.slice(8)}`,
    }));
  };
  const short = async () => (await events()).map(event => event.short);
  const config = async (id = 'a') =>
    (await pool.query(`select * from export_configs where id = $1`, [id])).rows[0];
  const webhookJobs = async () =>
    (await pool.query(`select data, group_id from pgboss.job where name = 'deliver-webhook'`)).rows;
  return {
    secret,
    save,
    begin,
    fail,
    succeed,
    failDay,
    succeedDay,
    events,
    short,
    config,
    webhookJobs,
  };
}
