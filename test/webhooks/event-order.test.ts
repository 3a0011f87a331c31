import t from 'tap';
import { type WebhookJob, webhookQueue } from '../../src/db/job-queue.ts';
import { succeededEvent } from '../../src/webhooks/events.ts';
import { insertEvents } from '../../src/webhooks/insert-events.ts';
import { startTestApp } from '../helpers/app.ts';
import { result, startWithRuns } from '../helpers/ended-runs.ts';
import { registerSecret } from '../helpers/secrets.ts';

t.test('sends an event of an environment before the many events of another one', async t => {
  const app = await startTestApp(t);
  const { pool } = app.database;
  const { db, jobs } = app.dependencies;
  await startWithRuns(app, { configs: ['a'], url: null });
  await app.putEnvironment('quiet');
  await pool.query(
    `insert into export_configs (environment_id, id, name, enabled, schedule, provider, bucket, region, key,
       endpoint, access_key_id, sealed_secret, compression, manifest, active_since,
       created_at, updated_at)
     select 'quiet', id, name, enabled, schedule, provider, bucket, region, key, endpoint, access_key_id,
       sealed_secret, compression, manifest, active_since, created_at, updated_at
     from export_configs`,
  );
  for (const id of ['acme', 'quiet']) {
    const saved = await app.call(`/v1/environments/${id}/failure-webhook`, {
      method: 'PUT',
      json: { url: 'https://hooks.example.com/', events: ['export.succeeded'] },
    });
    t.equal(saved.status, 201);
    registerSecret(saved.json.failureWebhookSecret);
  }
  const start = Date.parse('2026-03-02T00:00:00Z');
  const insert = (environmentId: string, atMs: number) =>
    db.transaction().execute(trx => {
      const run = {
        environmentId,
        configId: 'a',
        configName: 'Nightly',
        runId: String(atMs),
        slot: null,
        snapshotDate: '2026-03-01',
      };
      return insertEvents(trx, jobs, [succeededEvent(run, result)], new Date(atMs));
    });
  for (let count = 0; count < 20; count += 1) await insert('acme', start + count);
  await insert('quiet', start + 20);
  const fetched = await jobs.fetch<WebhookJob>(webhookQueue, { batchSize: 2 });
  const environmentIds = fetched.map(({ data }) => data.environmentId);
  t.strictSame(environmentIds.toSorted(), ['acme', 'quiet']);

  await insert('acme', start + 61 * 60_000);
  const [next] = await jobs.fetch<WebhookJob>(webhookQueue);
  const { rows } = await pool.query('select created_at from webhook_events where id = $1', [
    next?.data.eventId,
  ]);
  t.equal(rows[0].created_at.getTime(), start + 61 * 60_000, 'earlier events count for an hour');
});
