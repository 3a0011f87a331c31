import t from 'tap';
import { retentionQueue } from '../../src/db/job-queue.ts';
import { startTestApp } from '../helpers/app.ts';
import { startExportWorker } from '../helpers/export-configs.ts';
import { fillSnapshot } from '../helpers/fill-snapshot.ts';
import { eventually } from '../helpers/raw-http.ts';

t.test('runs one retention job at a time, every night', async t => {
  const app = await startTestApp(t);
  const { jobs } = app.dependencies;
  const { pool } = app.database;
  await app.putEnvironment('acme', 'pro');
  for (const day of ['2025-06-04', '2025-06-05', '2026-03-02'])
    await fillSnapshot(pool, 'acme', day, 3);
  await pool.query('delete from snapshots where snapshot_date = $1', ['2025-06-04']);

  t.ok(await jobs.send(retentionQueue), 'another process queued the job');
  t.equal(await jobs.send(retentionQueue), null, 'never two');
  startExportWorker(t, app);
  await eventually(
    () => app.log.some(({ msg }) => msg === 'retention finished'),
    'the end of the nightly job',
    30_000,
  );
  t.match(
    app.log.find(({ msg }) => msg === 'retention finished'),
    { level: 30, snapshots: 1, partitions: 1, runs: 0, auditLines: 0 },
  );
  t.match(
    app.log.find(({ msg }) => String(msg).startsWith('old days kept: rows')),
    { level: 40, days: ['2025-06-04'] },
  );
  await eventually(
    async () => (await jobs.getSchedules(retentionQueue)).length === 1,
    'a schedule',
  );
  t.match(await jobs.getSchedules(retentionQueue), [
    { cron: '30 3 * * *', timezone: 'UTC', options: { missed: 'once' } },
  ]);
});
